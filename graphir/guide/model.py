"""What a guide to another model than the documents' says first: in which parts it differs from what the text tells."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from graphir.guide.markup import scrolled
from graphir.guide.tables import table
from graphir.models import Blueprint
from graphir.models.composition import Composition
from graphir.models.parts.norm import RMS, Norm
from graphir.models.parts.positions import Positions, Rotary, Rows, Table
from graphir.models.parts.residual import POST, SANDWICH
from graphir.models.transformer import Options


def differences(model: Blueprint, name: str) -> str:
    """A table of the parts of `model` that are others than the text's; HTML."""
    told, own = dict(_parts(Options().composition())), dict(_parts(model.composition))
    rows = [(escape(part), escape(told[part]), escape(own[part])) for part in own if own[part] != told[part]]
    intro = (
        f"<p>This copy was made for <strong>{escape(name)}</strong>. The text speaks of the plainest Transformer; "
        f"figures, tables and numbers show {escape(name)}, which has other parts in these places:</p>"
    )
    return intro + scrolled(table(("Part", "In the text", "Here"), rows, "parts"), f"the parts of {name}")


def _parts(composition: Composition) -> Iterator[tuple[str, str]]:
    """Each part of a model, and what it is, in a few words."""
    attention, mlp, head = composition.attention, composition.mlp, composition.head
    yield "Norm", _norm(composition.norm)
    yield (
        "Order",
        {POST: "norm of each sum", SANDWICH: "norms before and after each block"}.get(
            composition.residual, "norm before each block"
        ),
    )
    yield "Positions", _positions(composition.positions)
    yield "Tokens’ vectors", " ".join(_embedding(composition)) or "as they are looked up"
    yield "Attention", "of what stands before, too" if attention.causal else "of the whole text"
    yield (
        "Heads",
        {
            "shares": "as many for keys as for queries, D/N_H wide",
            "plain": "as many for keys as for queries, of a width of their own",
            "grouped": "N_KV of keys and values, each for G of queries; of a width of their own",
        }[attention.layout],
    )
    yield "Biases of attention", ", ".join(attention.biases) or "none"
    yield "Queries and keys", f"{_norm(attention.norm)} of each head" if attention.norm else "as they are"
    yield "Window", _window(composition)
    yield "Scores", f"within ±{attention.cap:g}" if attention.cap else "as they are"
    shape = f"{mlp.activation} of a gate, ⊙ up" if mlp.gated else mlp.activation
    yield "MLP", f"{shape}, {'with' if mlp.bias else 'without'} biases"
    yield "Dropout", "after embedding, scores and blocks" if composition.dropout is not None else "none"
    if head is None:
        yield "Head", "none: the last X is the result"
        return
    rest = [*(["with a bias"] if head.bias else []), *([f"logits within ±{head.cap:g}"] if head.cap else [])]
    before = [f"after a linear map and {head.transform}"] if head.transform else []
    yield "Head", ", ".join(["Eᵀ" if head.tied else "a matrix of its own", *before, *rest])


def _norm(norm: Norm) -> str:
    offset = f", γ + {norm.offset:g}" if norm.offset else ""
    return f"{'RMS' if norm.kind == RMS else 'LN'}, ε = {norm.epsilon:g}{offset}"


def _positions(positions: Positions) -> str:
    if isinstance(positions, Rows):
        return f"a {positions.kind} vector for each, added"
    if isinstance(positions, Table):
        return "a learned vector for each, looked up and added"
    assert isinstance(positions, Rotary)
    slowed = f", slowed as {positions.scaling.kind} has it" if positions.scaling.kind != "default" else ""
    other = f"; {positions.windowed_base:,.0f} in layers with a window" if positions.windowed_base else ""
    return f"queries and keys are turned, base {positions.base:,.0f}{slowed}{other}"


def _embedding(composition: Composition) -> Iterator[str]:
    if composition.embedding.scaled:
        yield "times √D"
    if composition.embedding.types:
        yield "with one for each type added, and normalized"


def _window(composition: Composition) -> str:
    attention = composition.attention
    if not attention.window:
        return "none"
    pattern = attention.windowed
    share = "every layer" if all(pattern) else f"{sum(pattern)} of {len(pattern)} layers"
    return f"{attention.window:,} places, in {share}"
