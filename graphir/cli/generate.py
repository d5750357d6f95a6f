"""`graphir generate`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Set
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphir.cli.options import (
    GroupedCommand,
    GroupedOption,
    all_declared,
    backend_option,
    backend_options,
    declared,
    given,
    require_ranks,
)
from graphir.cli.ranks import ENVIRONMENT, ranks_option, start_ranks
from graphir.errors import ConfigError
from graphir.generation import Choice
from graphir.models.sizes import WEIGHTS
from graphir.options import flag, options_of
from graphir.training.config import TrainConfig

if TYPE_CHECKING:
    from graphir.generation import Generation
    from graphir.training import Sampler

_PARALLEL = {name: options_of(TrainConfig)[name] for name in ("tp", "dp", "plan")}
#: What checkpoints of one's own can do: their models have no cache, and draw in their graphs.
_OF_CHECKPOINTS = {"checkpoint", "prompts", "tokens", "temperature", "top_k", "seed", "backend", "as_json"}


@click.command(cls=GroupedCommand, environment=ENVIRONMENT)
@click.argument("checkpoint", metavar="[CHECKPOINT_OR_DIR]", required=False)
@click.option(
    "--model",
    cls=GroupedOption,
    group="Model",
    metavar="DIR|FILE.gguf",
    help="In place of a checkpoint: a model that others have trained, a folder or a GGUF file.",
)
@click.option(
    "--prompt", "prompts", multiple=True, default=("The ",), show_default=True, help="A text to continue, repeatable."
)
@click.option("--chat", is_flag=True, help="The prompt is a question; the answer is that of the model's chat template.")
@click.option("--max-tokens", "--tokens", "tokens", default=300, show_default=True, help="How many tokens to add.")
@click.option("--stop", "stops", multiple=True, metavar="TEXT", help="A text that ends what is added, repeatable.")
@click.option("--stream/--no-stream", default=True, help="Whether the text of a single prompt is shown as it comes.")
@declared("weights", WEIGHTS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object when all is there, in place of text.")
@all_declared(options_of(Choice))
@all_declared(_PARALLEL)
@ranks_option("Parallel")
@backend_option()
@backend_options("threads", "kernels")
@click.pass_context
def generate(
    context: click.Context,
    /,
    checkpoint: str | None,
    model: str | None,
    prompts: tuple[str, ...],
    tokens: int,
    stream: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Continue a text with a trained model, or answer a question.

    CHECKPOINT_OR_DIR is a checkpoint, or the folder of a run, whose latest one is taken. With --model it is a model of
    others; how fast tokens were read and chosen is told on stderr.
    """
    if (checkpoint is None) == (model is None):
        raise click.UsageError("give a checkpoint, or the folder of a run, or a model by --model", context)
    if tokens < 0:
        raise ConfigError(f"--max-tokens must be at least 0, not {tokens}")
    if checkpoint is not None:
        _from_checkpoint(checkpoint, prompts, tokens, as_json, options, given(context))
        return 0
    from graphir.generation import Generation
    from graphir.ir.layout import Mesh

    kind, prints = start_ranks(options.pop("ranks"), options["backend"])
    sizes = {axis: options.pop(axis) for axis in ("dp", "tp")}
    plan, stops, chat = options.pop("plan"), options.pop("stops"), options.pop("chat")
    weights = options.pop("weights")
    if max(sizes.values()) > 1:
        options |= {"mesh": Mesh({axis: size for axis, size in sizes.items() if size > 1}), "plan": plan, "ranks": kind}
    require_ranks(plan, sizes["dp"] * sizes["tp"])
    chosen = {name: value for name, value in options.items() if value is not None}
    texts = Generation(
        str(model), list(prompts), max_tokens=tokens, stop=stops, chat=chat, weights=weights, options=chosen
    )
    if not prints:
        for _ in texts:
            pass
    elif as_json:
        following = _following(texts)
        pace = texts.pace
        _print_json(
            zip(prompts, following, strict=True),
            read={"tokens": pace.read, "seconds": pace.reading},
            chosen={"tokens": pace.chosen, "seconds": pace.choosing},
        )
    else:
        _show(texts, [""] * len(prompts) if chat else list(prompts), stream and len(prompts) == 1)
        pace = texts.pace
        click.echo(
            f"{pace.read} tokens read, {_rate(pace.read, pace.reading)}; {pace.chosen} chosen, "
            f"{_rate(pace.chosen, pace.choosing)}",
            err=True,
        )
    return 0


def _following(generation: Generation) -> list[str]:
    """What follows each of the prompts, when all is there."""
    texts = [""] * len(generation.prompts)
    for token in generation:
        texts[token.number] += token.text
    return texts


def _print_json(texts: Iterable[tuple[str, str]], **pace: Mapping[str, float]) -> None:
    found = {"texts": [{"prompt": prompt, "text": text} for prompt, text in texts], **pace}
    click.echo(json.dumps(found, ensure_ascii=False, indent=2))


def _show(generation: Generation, texts: list[str], stream: bool) -> None:
    """Writes what follows each of the texts: as it comes, or each when it is whole."""
    if stream:
        tokens = iter(generation)
        first = next(tokens, "")  # an impossible prompt fails before anything is written
        write_text(chain(texts, [str(first)], map(str, tokens)))
        return
    for text, more in zip(texts, _following(generation), strict=True):
        write_text([text + more])


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens / seconds:,.1f} a second" if seconds else "at once"


def _from_checkpoint(
    checkpoint: str,
    prompts: tuple[str, ...],
    tokens: int,
    as_json: bool,
    options: Mapping[str, Any],
    written: Set[str],
) -> None:
    """Continues a text with a model of graphir's own training."""
    from graphir.training import Sampler, find_checkpoint, load_checkpoint

    foreign = sorted(written - _OF_CHECKPOINTS)
    if foreign:
        raise ConfigError(f"{flag(foreign[0]).replace('stops', 'stop')} is for models by --model, not for checkpoints")
    if len(prompts) != 1:
        raise ConfigError("a checkpoint continues one --prompt at a time")
    names = ("temperature", "top_k", "seed", "backend")
    sampler = Sampler(load_checkpoint(find_checkpoint(Path(checkpoint))), **{name: options[name] for name in names})
    unknown = sampler.unknown(prompts[0])
    if unknown:
        click.echo(f"note: {unknown} of the prompt's tokens are unknown to the tokenizer", err=True)
    if as_json:
        _print_json([(prompts[0], "".join(sampler.stream(prompts[0], tokens)))])
    else:
        write_stream(sampler, prompts[0], tokens)


def write_stream(sampler: Sampler, prompt: str, tokens: int) -> None:
    """Writes prompt and continuation as they come."""
    pieces = sampler.stream(prompt, tokens)
    first = next(pieces, "")  # an impossible prompt fails before anything is written
    write_text(chain([prompt, first], pieces))


def write_text(pieces: Iterable[str]) -> None:
    """Writes a line to stdout as its pieces come; what the terminal cannot show becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    for text in pieces:
        click.echo(text.encode(encoding, errors="replace").decode(encoding), nl=False)
        sys.stdout.flush()
    click.echo()
