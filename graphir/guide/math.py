r"""Formulas: a small part of TeX's notation, as MathML that browsers set without any library.

Notation, what a formula may hold:

    x  X  2  dX            a letter is italic; d before a capital is upright, the documents' gradient
    {…}  x_{…}  x^{…}  '   groups, subscripts, superscripts, primes
    \alpha \theta \eta …   Greek letters, and signs by name: \sum \cdot \odot \to \le \partial \in …
    \mathbf{X}  \text{up}  bold, upright text;  \widetilde{W} a parameter
    \frac{a}{b}  \sqrt{a}  \mathcal{L}
    \mathrm{softmax}       an upright name
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape

from graphir.errors import ConfigError

_SIGNS = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "epsilon": "ε",
    "eta": "η",
    "theta": "θ",
    "lambda": "λ",
    "mu": "μ",
    "sigma": "σ",
    "ell": "ℓ",
    "Phi": "Φ",
    "infty": "∞",
}
_OPERATORS = {
    "sum": "∑",
    "cdot": "·",
    "odot": "⊙",
    "bullet": "•",
    "to": "→",
    "mapsto": "↦",
    "gets": "←",
    "times": "×",
    "le": "≤",
    "ge": "≥",
    "ne": "≠",
    "approx": "≈",
    "in": "∈",
    "partial": "∂",
    "cdots": "⋯",
    "dots": "…",
    "quad": "\u2003",
    "colon": ":",
    "propto": "∝",
}
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]|\d+(?:\.\d+)?|\s+|.", re.DOTALL)


def mathml(formula: str, *, display: bool = False) -> str:
    """`formula` as a `<math>` element; `display` sets it on a line of its own.

    Errors: ConfigError, with the formula and the place, for a command that is not known or a brace left open.
    """
    content = _Parser(formula, _TOKEN.findall(formula)).whole()
    kind = ' display="block"' if display else ""
    return f'<math{kind} xmlns="http://www.w3.org/1998/Math/MathML"><mrow>{content}</mrow></math>'


@dataclass
class _Parser:
    """One walk over the tokens; each method returns the MathML of what it read."""

    formula: str
    tokens: list[str]
    place: int = field(default=0)

    def whole(self) -> str:
        """All of the formula."""
        made = self.row()
        if self.peek():
            raise self.error(f"{self.peek()!r} closes nothing")
        return made

    def row(self) -> str:
        """What stands side by side, up to a closing brace or the end."""
        made = []
        while self.peek() not in ("", "}"):
            made.append(self.scripted())
        return "".join(made)

    def scripted(self) -> str:
        """An atom with what stands below and above it."""
        limits = self.peek() == "\\sum"
        base, below, above = self.atom(), "", ""
        while self.peek() in ("_", "^", "'"):
            mark = self.take()
            if mark == "_":
                below += self.atom()
            else:
                above += "<mo>′</mo>" if mark == "'" else self.atom()
        scripts = "".join(f"<mrow>{each}</mrow>" for each in (below, above) if each)
        if not scripts:
            return base
        tag = {(True, True): "subsup", (True, False): "sub", (False, True): "sup"}[bool(below), bool(above)]
        if limits:
            tag = tag.replace("sub", "under").replace("sup", "over")
        return f"<m{tag}>{base}{scripts}</m{tag}>"

    def atom(self) -> str:
        """A letter, a number, a sign, a group, or a command with what it applies to."""
        token = self.peek()
        if token in ("", "_", "^", "}"):
            raise self.error(f"{token!r} stands alone" if token else "something is missing at the end")
        self.take()
        if token == "{":
            content = self.row()
            self.expect("}")
            return f"<mrow>{content}</mrow>"
        if token.startswith("\\"):
            return self.command(token[1:])
        if token.isalpha():
            gradient = token == "d" and (self.peek()[:1].isupper() or self.peek() in _AFTER_D)
            return '<mi mathvariant="normal">d</mi>' if gradient else f"<mi>{escape(token)}</mi>"
        if token[0].isdigit():
            return f"<mn>{token}</mn>"
        # Brackets grow around fractions only; a tilde or a subscript is no reason to.
        fixed = ' stretchy="false"' if token in "()[]" and "\\frac" not in self.formula else ""
        return f"<mo{fixed}>{escape('−' if token == '-' else token)}</mo>"

    def command(self, name: str) -> str:
        """What a command makes, after its backslash and name have been read."""
        if name == "frac":
            return f"<mfrac>{self.atom()}{self.atom()}</mfrac>"
        if name == "sqrt":
            return f"<msqrt>{self.atom()}</msqrt>"
        if name in _ACCENTS:
            return f'<mover accent="true">{self.atom()}<mo>{_ACCENTS[name]}</mo></mover>'
        if name in _LETTERS:
            return _LETTERS[name].format(escape(self.letters()))
        if name == "mathcal":
            return f"<mi>{escape(self.letters().replace('L', 'ℒ'))}</mi>"
        if name in _SIGNS:
            return f"<mi>{_SIGNS[name]}</mi>"
        if name in _OPERATORS:
            return f"<mo>{_OPERATORS[name]}</mo>"
        if name == ",":
            return '<mspace width="0.17em"/>'
        raise self.error(f"\\{name} is not known")

    def letters(self) -> str:
        """A letter, or plain text in braces, with its spaces."""
        if self.peek() != "{":
            return _plain(self.take())
        self.take()
        text = ""
        while self.place < len(self.tokens) and self.tokens[self.place] != "}":
            text += _plain(self.tokens[self.place])
            self.place += 1
        self.expect("}")
        return text

    # -- tokens ---------------------------------------------------------------------------------------

    def peek(self) -> str:
        """The next token that is no space; an empty one at the end."""
        while self.place < len(self.tokens) and self.tokens[self.place].isspace():
            self.place += 1
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self) -> str:
        """The next token, and on to the one after it."""
        token = self.peek()
        self.place += 1
        return token

    def expect(self, token: str) -> None:
        """Takes `token`, which must come next."""
        if self.peek() != token:
            raise self.error(f"{token!r} expected, not {self.peek() or 'the end'!r}")
        self.take()

    def error(self, message: str) -> ConfigError:
        """What is wrong, with the formula up to there."""
        return ConfigError(f"cannot typeset {self.formula!r}: {message}, after {''.join(self.tokens[: self.place])!r}")


def _plain(token: str) -> str:
    return _SIGNS.get(token[1:], token[1:]) if token.startswith("\\") else token


#: After which a d is the documents' gradient and not a letter of its own.
_AFTER_D = frozenset({"f", "\\mathbf", "\\widetilde", "\\theta", "\\gamma", "\\beta", "\\mathcal"})
_ACCENTS = {"widetilde": "~", "hat": "^"}
_LETTERS = {
    "mathbf": '<mi mathvariant="normal" class="tensor">{}</mi>',
    "mathrm": '<mi mathvariant="normal">{}</mi>',
    "text": "<mtext>{}</mtext>",
}
