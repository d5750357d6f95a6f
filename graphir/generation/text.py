"""From tokens to text, as it comes: whole characters only, and nothing of what may become a stop."""

from __future__ import annotations

from collections.abc import Sequence

from graphir.tokenizer import Tokenizer

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Piecewise:
    """The text of tokens that follow a prompt, piece by piece.

    A piece ends where its characters are complete. What may be the beginning of one of the `stops` is held back until
    it is known not to be; `stopped` says that one has come, of which nothing is shown.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        # Decoding starts a piece early: some tokenizers write a token after another otherwise than alone.
        self._ids = list(prompt[-1:])
        self._before, self._shown = 0, len(self._ids)
        self._held = ""
        self.stopped = False

    def add(self, id: int, *, last: bool = False) -> str:
        """The text that is complete with one more token; with the `last` one all that there is."""
        self._ids.append(id)
        return self._next(last)

    def end(self) -> str:
        """All that was held back, where no more tokens come."""
        return self._next(last=True)

    def _next(self, last: bool) -> str:
        known = self._tokenizer.decode(self._ids[self._before : self._shown])
        text = self._tokenizer.decode(self._ids[self._before :])
        if not last and (len(text) <= len(known) or text.endswith(_REPLACEMENT)):
            return ""
        self._before, self._shown = self._shown, len(self._ids)
        return self._released(text[len(known) :], last)

    def _released(self, text: str, last: bool) -> str:
        text = self._held + text
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        kept = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]


def _overlap(text: str, stop: str) -> int:
    """How long the longest end of the text is that a stop begins with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
