"""`gi.generate`: prompts in, tokens out, as they are chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from graphir.errors import ConfigError, DataError
from graphir.generation.choice import choose
from graphir.generation.decoder import Decoder, cached_graph
from graphir.generation.options import Choice
from graphir.generation.text import Piecewise
from graphir.hub import Pretrained, open_model
from graphir.models.sizes import HELD, WIDE
from graphir.options import made_of, options_of, require_choice
from graphir.passes import as_stored

#: What a conversation is: messages {"role": "user", "content": "…"}, in their order.
Conversation = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Token:
    """A token that was chosen; `print(token, end="")` shows its text.

    id       its number
    text     what can be shown with it: whole characters, so perhaps nothing yet, or what was held back before
    number   which of the prompts it follows
    last     whether none follows it
    """

    id: int
    text: str
    number: int = 0
    last: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass
class Pace:
    """How fast tokens were read and chosen, in tokens and seconds; compiling is counted in neither."""

    read: int = 0
    reading: float = 0.0
    chosen: int = 0
    choosing: float = 0.0


class Generation:
    """Prompts and what follows them. Iterate over it once: it yields `Token`s.

    Errors, before the first token: those of `open_model`, `Pretrained.tokenizer` and `Decoder.begin`; ConfigError for
    an option that is unknown or cannot be.
    """

    def __init__(
        self,
        model: Pretrained | str | PathLike[str],
        prompt: str | Sequence[str] | Sequence[Conversation],
        *,
        max_tokens: int = 256,
        stop: str | Sequence[str] = (),
        chat: bool = False,
        weights: str = WIDE,
        options: Mapping[str, Any],
    ) -> None:
        require_choice("weights", weights, HELD)
        if max_tokens < 0:
            raise ConfigError(f"max_tokens must be at least 0, not {max_tokens}")
        self.model = model if isinstance(model, Pretrained) else open_model(model)
        self.tokens = max_tokens
        self.stops = [stop] if isinstance(stop, str) else list(stop)
        chosen = options_of(Choice)
        self.choice = made_of(Choice, "a choice", {name: options[name] for name in options if name in chosen})
        self.tokenizer = self.model.tokenizer
        self.prompts = [self._ids(each, chat) for each in _several(prompt)]
        rest = {name: value for name, value in options.items() if name not in chosen}
        wide = self.model.blueprint.composition.dtype if weights == WIDE else None
        # Wide, too, a matrix keeps the file's rows for columns: to turn it takes longer than to compile.
        graph = as_stored(cached_graph(self.model.blueprint), self.model.lies(wide))
        arrays = self.model.arrays_of(graph)
        self.decoder = Decoder(self.model.blueprint, arrays, len(self.prompts), graph=graph, **rest)
        self.pace = Pace()

    def _ids(self, prompt: str | Conversation, chat: bool) -> list[int]:
        """The tokens of a prompt, a text or a conversation."""
        if isinstance(prompt, str) and not chat:
            ids = self.tokenizer.encode(prompt, framed=True)
        else:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            ids = self.tokenizer.encode(self.model.chat.render(messages))
        if not ids:
            raise DataError(f"the prompt {prompt!r} has no token that the model knows; give another")
        return ids

    def __iter__(self) -> Iterator[Token]:
        prompts, decoder, ends = self.prompts, self.decoder, set(self.model.speech.ends)
        if not self.tokens:
            return
        begun = time.perf_counter()
        logits = decoder.begin(prompts, self.tokens)
        self.pace.read, self.pace.reading = sum(map(len, prompts)), time.perf_counter() - begun - decoder.compiling
        begun, compiling = time.perf_counter(), decoder.compiling
        seen = [list(prompt) for prompt in prompts]
        pieces = [Piecewise(self.tokenizer, prompt, self.stops) for prompt in prompts]
        going = set(range(len(prompts)))
        for step in range(self.tokens):
            for number in sorted(going):
                id = choose(self.choice, logits[number], seen[number], number, step)
                seen[number].append(id)
                full = step + 1 == self.tokens or len(seen[number]) >= decoder.longest
                text = pieces[number].end() if id in ends else pieces[number].add(id, last=full)
                last = full or id in ends or pieces[number].stopped
                if last:
                    going.discard(number)
                self.pace.chosen += 1
                self.pace.choosing = time.perf_counter() - begun - (decoder.compiling - compiling)
                yield Token(id, text, number, last)
            if not going:
                return
            # A text that has ended goes on in the batch, and nobody looks at it.
            logits = decoder.step([ids[-1] for ids in seen], going)


def generate(
    model: Pretrained | str | PathLike[str],
    prompt: str | Sequence[str] | Sequence[Conversation],
    *,
    max_tokens: int = 256,
    stop: str | Sequence[str] = (),
    chat: bool = False,
    weights: str = WIDE,
    **options: Any,
) -> Generation:
    """What a model says to a prompt, token by token; of several prompts in a batch, in turn.

        for token in gi.generate("SmolLM2-135M-Instruct", "What is a tensor?", chat=True):
            print(token, end="", flush=True)

    model         a folder, a .gguf file, or what `graphir.hub.open_model` made of one
    prompt        a text, or several, each with an answer of its own; of `chat` a question, or the messages so far
    max_tokens    how many tokens follow at most; fewer where the model ends its text, or has no position left
    stop          texts that end the answer, of which nothing is shown
    weights       "wide", in the floats that the model computes in, or "stored", as its files have them: 16 bits take
                  half the room, and are widened part by part as they are multiplied
    options       those of `Choice`: temperature=0.8, top_k=40, top_p=1, min_p=0, repetition=1, seed=0; a mesh and a
                  plan's name, mesh=gi.Mesh(tp=2); and those of `gi.compile`, such as threads=2
    """
    return Generation(model, prompt, max_tokens=max_tokens, stop=stop, chat=chat, weights=weights, options=options)


def _several(prompt: Any) -> list[Any]:
    """A list of prompts, of one or of several."""
    if isinstance(prompt, str):
        return [prompt]
    found = list(prompt)
    return [found] if found and isinstance(found[0], Mapping) else found
