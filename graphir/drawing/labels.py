"""Names as the documents typeset them: `dX_norm.Q_lin` is d**X** with the subscript "norm,Q".

Tensors are bold, small letters italic, parameters carry a tilde, a gradient is d + the primal. The documents' own
spellings come from the one table of them, `graphir.ir.notation`; the writers below turn runs into Graphviz' HTML-like
labels, into HTML, and into plain text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from html import escape

from graphir.drawing.picture import Label, Run
from graphir.ir.dims import Dim
from graphir.ir.notation import ALIASES

_TILDE = "\u0303"


def _is_word(name: str) -> bool:
    return name.isascii() and name.isidentifier()


#: Ours -> the documents', where theirs is the same name in other letters, and where it is another name.
_SPELLINGS = {ours: theirs for theirs, ours in ALIASES.items() if not _is_word(theirs)}
_OTHER_NAMES = {ours: theirs for theirs, ours in ALIASES.items() if _is_word(theirs)}
#: Statistics and masks, by the name that their operator's signature gives them.
_STATISTICS: Mapping[str, Label] = {
    "mean": (Run("μ", "italic"),),
    "rstd": (Run("σ", "italic"), Run("−1", "sup")),
    "m": (Run("m", "bold"),),
    "lse": (Run("lse"),),
}
_DIM = re.compile(r"([A-Za-z]+)(?:_([A-Za-z0-9_]+))?|([0-9]+)|([*/])")


#: What a name's last part says was done to a value, where it is no use of it.
_DONE_TO = ("again", "clipped", "part")


def typeset(name: str, *, gradient: bool = False, parameter: bool = False) -> Label:
    """The local name `name` as runs; `parameter` sets a tilde on the letter that names it."""
    runs = _typeset(_SPELLINGS.get(name, name), gradient, parameter)
    if name in _OTHER_NAMES:
        runs = (*runs, Run(" ("), *_typeset(_OTHER_NAMES[name], gradient, parameter), Run(")"))
    return runs


def _typeset(name: str, gradient: bool, parameter: bool) -> Label:
    stem, _, part = name.partition(".")
    if part in _STATISTICS or name in _STATISTICS:
        return _STATISTICS[part or name]
    prefix: Label = ()
    if gradient and stem.startswith("d") and len(stem) > 1:
        prefix, stem = (Run("d"),), stem[1:]
    base, mark, rest = re.match(r"([^_^]*)([_^]?)(.*)", stem).groups()  # type: ignore[union-attr]
    base = _SPELLINGS.get(base, base)
    script = rest.replace("_", ",") if mark == "_" else ""
    form = "" if base == "ℒ" else "italic" if base.islower() else "bold"
    runs = [*prefix, Run(base + (_TILDE if parameter else ""), form)]
    if script:
        runs.append(Run(script, "sub"))
    if mark == "^":
        runs.append(Run(rest, "sup"))
    said = part.partition(".")[0]
    if said in _DONE_TO:
        runs.append(Run(f" {said}", "italic"))
    elif part:
        # One use's part of a gradient, called after what that use makes.
        runs += [Run(" (via "), *_typeset(part, False, False), Run(")")]
    return tuple(runs)


def broadcast_label(dims: Iterable[Dim], inner: Label) -> Label:
    """BC with its new dims as a subscript, around what is repeated (B 4.4.2)."""
    return (Run("BC"), Run(",".join(map(str, dims)).replace("_", ""), "sub"), Run("("), *inner, Run(")"))


def shape_label(shape: Iterable[Dim], note: str = "") -> Label:
    """`[B, N_H/N_T, S, D_h]` with real subscripts, and a note after it."""
    runs = [Run("[")]
    for position, each in enumerate(shape):
        if position:
            runs.append(Run(", "))
        runs.extend(dim_label(each))
    runs.append(Run("]"))
    if note:
        runs.append(Run(f" {note}", "italic"))
    return tuple(runs)


def dim_label(size: Dim) -> Label:
    """A dim, or any formula of dims: letters italic, `_x` a subscript, a product as a dot."""
    runs: list[Run] = []
    for letters, script, number, sign in _DIM.findall(str(size)):
        if letters:
            runs.append(Run(letters, "italic"))
            if script:
                runs.append(Run(script, "sub"))
        else:
            runs.append(Run(number or {"*": "·", "/": "/"}[sign]))
    return tuple(runs)


def formula_label(text: str) -> Label:
    """A formula or sentence with the dims in it typeset: `2 (N_T − 1) · B*S*D`."""
    runs: list[Run] = []
    position = 0
    for found in re.finditer(r"\b([A-Z][A-Za-z]*)_([A-Za-z]+)\b|\b([A-Z])\b", text):
        runs.append(Run(text[position : found.start()].replace("*", "·")))
        runs.append(Run(found[1] or found[3], "italic"))
        if found[2]:
            runs.append(Run(found[2], "sub"))
        position = found.end()
    runs.append(Run(text[position:].replace("*", "·")))
    return tuple(run for run in runs if run.text)


def scripts_label(text: str) -> Label:
    """A text whose raised and lowered letters, ᵀ or ₁, are set as such: few fonts have them."""
    runs: list[Run] = []
    for letter in text:
        kind, _, plain_letter = unicodedata.decomposition(letter).partition(" ")
        form = {"<super>": "sup", "<sub>": "sub"}.get(kind, "")
        shown = chr(int(plain_letter, 16)) if form and " " not in plain_letter else letter
        if runs and runs[-1].form == form:
            runs[-1] = Run(runs[-1].text + shown, form)
        else:
            runs.append(Run(shown, form))
    return tuple(runs)


# -- writers ----------------------------------------------------------------------------------------------


def plain(label: Label) -> str:
    """`W̃_Q`, `K^T`: for logs, tooltips and search."""
    marks = {"sub": "_", "sup": "^"}
    return "".join(marks.get(run.form, "") + run.text for run in label)


def to_graphviz(label: Label, size: float) -> str:
    """The runs in Graphviz' HTML-like language, text at `size` points."""
    tags = {"bold": "B", "italic": "I", "sub": "SUB", "sup": "SUP"}
    parts = []
    for run in label:
        # Blanks alone are no content to Graphviz, and an element without content is a syntax error.
        text = escape(run.text, quote=True).replace("\n", " ") if run.text.strip() else "&#160;"
        if run.form in ("sub", "sup", "small"):
            text = f'<FONT POINT-SIZE="{round(size * 0.72)}">{text}</FONT>'
        tag = tags.get(run.form)
        parts.append(f"<{tag}>{text}</{tag}>" if tag else text)
    return f'<FONT POINT-SIZE="{round(size)}">{"".join(parts)}</FONT>' if parts else ""


def to_html(label: Label) -> str:
    """The runs as HTML, with every character of theirs escaped."""
    tags = {"bold": "b", "italic": "i", "sub": "sub", "sup": "sup", "small": "small"}
    parts = []
    for run in label:
        text = escape(run.text, quote=True)
        tag = tags.get(run.form)
        parts.append(f"<{tag}>{text}</{tag}>" if tag else text)
    return "".join(parts)
