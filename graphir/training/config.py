"""What a training run is: every choice that its numbers follow from, each declared once.

A field's metadata says all that others need of it: the command line makes an option of it, `check` its limits,
a resumed run whether it may differ. Sizes are named as in the documents: `batch` is B, `sequence` S, `width` D,
`heads` N_H, `feed_forward` D_ff.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from graphir.errors import CheckpointError, ConfigError
from graphir.ir.layout import Mesh

#: What matrix products may read and return, as `graphir.passes` has it; that room is not loaded for a help text.
PRECISIONS = ("float32", "bfloat16", "float16")
RESULTS = ("wide", "narrow")
#: Products of float32 as `gi.compile(…, precision="tf32")` has them multiplied.
TF32 = "tf32"
#: Where a dynamic loss scale starts.
DYNAMIC_START = 65536.0
#: What V_pad is a multiple of where --vocabulary-multiple leaves it to the backend, 1 on all others. Tensor cores want
#: rows that start at multiples of 16 bytes; 64 numbers of 16 bits are 128 bytes, a line of a GPU's cache.
MULTIPLES = {"cupy": 64}
#: Whole numbers are below this, unless a field says otherwise: floats and JSON hold all of them exactly.
_BELOW = 2**53
_LARGEST = sys.float_info.max
#: Numbers beyond are not written out.
_ENDLESS = 10**30


def _option(
    default: Any,
    group: str,
    help: str,
    *,
    least: float | None = None,
    below: float | None = None,
    positive: bool = False,
    choices: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    free: bool = False,
) -> Any:
    """A field: `least` ≤ value < `below`, > 0 if `positive`; `free` if it may differ when a run goes on.

    The default of an option that is added later has to mean what was before: checkpoints that are older lack it.
    """
    metadata = {
        "group": group,
        "help": help,
        "least": least,
        "below": below,
        "positive": positive,
        "choices": choices,
        "flags": flags,
        "free": free,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TrainConfig:
    """A run's choices. Errors: `check` raises ConfigError, naming the option and what it may be."""

    text: tuple[str, ...] = _option(
        (), "Text", "A file of UTF-8 text to train on, repeatable; without it, Python's reference prose.", free=True
    )
    tokenizer: str = _option("bytes", "Text", "'bytes' or the path of a Hugging Face tokenizer.json.", free=True)
    validation: float = _option(
        0.1, "Text", "Share of the text, from its end, that is kept for validation.", positive=True, below=1
    )

    layers: int = _option(2, "Model", "L, the number of layers.", least=1)
    sequence: int = _option(64, "Model", "S, tokens a sequence.", least=1)
    width: int = _option(128, "Model", "D, the width of the model.", least=1)
    heads: int = _option(4, "Model", "N_H, attention heads; they divide D.", least=1)
    feed_forward: int | None = _option(None, "Model", "D_ff, the width inside an MLP.  [default: 4 D]", least=1)
    dropout: float = _option(0.0, "Model", "p, the share that every DO drops.", least=0, below=1)
    activation: str = _option("relu", "Model", "GL.", choices=("gelu", "gelu_tanh", "relu", "silu"))
    positions: str = _option("learned", "Model", "How places are told apart.", choices=("learned", "sinusoidal"))
    tied: bool = _option(True, "Model", "Whether the output projection is Eᵀ.", flags=("--tied", "--untied"))
    qkv_bias: bool = _option(False, "Model", "Whether Q, K and V have biases.", flags=("--qkv-bias", "--no-qkv-bias"))
    final_norm: bool = _option(
        True, "Model", "Whether an LN stands before the output projection.", flags=("--final-norm", "--no-final-norm")
    )
    dtype: str = _option("float32", "Model", "The floats of all tensors.", choices=("float32", "float64"))

    precision: str = _option(
        "float32",
        "Model",
        "What matrix products read: float32 for the floats of --dtype, or 16 bits, their sums and all else in --dtype; "
        "tf32, on a GPU: float32 with 10 bits after the point.",
        choices=(*PRECISIONS, TF32),
    )
    results: str = _option(
        "wide",
        "Model",
        "What products of 16 bits return: wide, as it was added up, or narrow, rounded to 16 bits, as PyTorch's "
        "autocast has it: fewer bytes are written, held and sent. A weight's gradient is wide either way.",
        choices=RESULTS,
    )
    vocabulary_multiple: int | None = _option(
        None,
        "Model",
        "V_pad: the vocabulary's tensors get rows of zeros up to the next multiple of this, on each rank that shares "
        "them. Tensor cores are fast on rows of whole 16 bytes, which an odd V has not; all numbers stay those of V, "
        "which is what checkpoints hold.  [default: 1; with --backend cupy 64]",
        least=1,
        free=True,
    )

    steps: int = _option(2400, "Optimization", "Steps in all, those before a resumption included.", least=1, free=True)
    batch: int = _option(16, "Optimization", "B, sequences a step.", least=1)
    optimizer: str = _option("adamw", "Optimization", "The update.", choices=("sgd", "adam", "adamw"))
    learning_rate: float = _option(3e-3, "Optimization", "The schedule's peak.", positive=True)
    schedule: str = _option(
        "cosine", "Optimization", "How the rate goes on after the warm-up.", choices=("constant", "linear", "cosine")
    )
    warmup: int | None = _option(
        None, "Optimization", "Steps of linear rise.  [default: a twentieth of the schedule]", least=0
    )
    schedule_steps: int | None = _option(
        None, "Optimization", "The step at which the rate has fallen to its floor.  [default: --steps]", least=1
    )
    floor: float = _option(0.05, "Optimization", "The floor, as a share of the peak.", least=0, below=1)
    weight_decay: float = _option(0.1, "Optimization", "Decay of matrices (SGD and AdamW).", least=0)
    clip: float = _option(1.0, "Optimization", "Limit of the gradients' global norm; 0 for none.", least=0)
    loss_scale: float = _option(
        0.0,
        "Optimization",
        "What the loss is multiplied by under --precision float16; 0: a number that follows the gradients, from 65536.",
        least=0,
    )
    seed: int = _option(
        0, "Optimization", "What initial parameters, data order and dropout follow from.", least=0, below=2**63
    )

    dp: int = _option(1, "Parallel", "N_DP, ranks that share the batch.", least=1, free=True)
    cp: int = _option(1, "Parallel", "Ranks that share the sequence.", least=1, free=True)
    tp: int = _option(1, "Parallel", "N_T, ranks that share heads and D_ff.", least=1, free=True)
    plan: str | None = _option(
        None,
        "Parallel",
        "How, for example sequence, vocabulary or data+zero1; the usual plan is added for each axis left out."
        "  [default: data, context, megatron]",
        free=True,
    )

    validate_every: int = _option(200, "Output", "Steps between validations; 0: only at the end.", least=0, free=True)
    validate_batches: int = _option(
        16, "Output", "Batches a validation, spread evenly over its text; 0: all of it.", least=0, free=True
    )
    checkpoint_every: int = _option(400, "Output", "Steps between checkpoints; 0: only at the end.", least=0, free=True)
    keep: int = _option(2, "Output", "How many of the latest checkpoints to keep; 0: all.", least=0, free=True)
    sample: int = _option(300, "Output", "Tokens of the sample shown at the end.", least=0, free=True)

    # -- checks ---------------------------------------------------------------------------------------

    def check(self) -> TrainConfig:
        """The configuration itself, if every option is of its type and within its limits."""
        for each in fields(self):
            _check_value(each.name, getattr(self, each.name), each.default, each.metadata)
        if self.loss_scale and self.precision != "float16":
            raise ConfigError(
                f"--loss-scale {self.loss_scale:g} is for --precision float16, whose range is small; "
                f"leave it out of {self.precision}"
            )
        if self.results == "narrow" and self.precision not in PRECISIONS[1:]:
            raise ConfigError(
                f"--results narrow rounds what products of 16 bits return; --precision {self.precision} has none: "
                f"choose {' or '.join(PRECISIONS[1:])}"
            )
        resolved = self.resolved()
        if self.schedule != "constant" and resolved.warmup >= resolved.schedule_steps:  # type: ignore[operator]
            raise ConfigError(
                f"--warmup {resolved.warmup} leaves a {self.schedule} schedule of {resolved.schedule_steps} steps "
                f"nothing to fall in; choose fewer than {resolved.schedule_steps}"
            )
        return self

    def resolved(self) -> TrainConfig:
        """With every default that follows from other options filled in: what a checkpoint keeps."""
        total = self.schedule_steps or self.steps
        return replace(
            self,
            feed_forward=self.feed_forward or 4 * self.width,
            schedule_steps=total,
            warmup=total // 20 if self.warmup is None else self.warmup,
        )

    # -- what follows ---------------------------------------------------------------------------------

    def model_options(self) -> dict[str, Any]:
        """The keywords of `models.transformer`, dropout and the decoding branch left out."""
        names = ("layers", "activation", "positions", "tied", "qkv_bias", "final_norm", "dtype")
        return {name: getattr(self, name) for name in names}

    @property
    def stored_precision(self) -> str:
        """What products read, as it is stored: under tf32, a device rounds float32 as it multiplies."""
        return "float32" if self.precision == TF32 else self.precision

    def multiple_on(self, backend: str) -> int:
        """What V_pad is a multiple of on this backend. A default is no part of the run: elsewhere it may be another."""
        return self.vocabulary_multiple or MULTIPLES.get(backend, 1)

    def differentiation_options(self) -> dict[str, Any]:
        """The keywords of `autodiff`: the loss scale that the precision needs."""
        if self.precision != "float16":
            return {}
        return {"loss_scale": self.loss_scale or DYNAMIC_START, "dynamic": not self.loss_scale}

    def mesh(self) -> Mesh:
        """The ranks that --dp, --cp and --tp ask for; an axis of one rank is none."""
        axes = {"dp": self.dp, "cp": self.cp, "tp": self.tp}
        return Mesh({axis: count for axis, count in axes.items() if count > 1})

    def sizes(self, vocabulary: int) -> dict[str, int]:
        """The numbers of the dims B, S, D, N_H, D_ff, V."""
        return {
            "B": self.batch,
            "S": self.sequence,
            "D": self.width,
            "N_H": self.heads,
            "D_ff": self.feed_forward or 4 * self.width,
            "V": vocabulary,
        }

    # -- to and from checkpoints ----------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_dict(cls, data: object, where: str) -> TrainConfig:
        """The configuration that a checkpoint holds; what that is too old to know is as it was then.

        CheckpointError, with `where`, if it is none, or has options that came later.
        """
        if not isinstance(data, Mapping):
            raise CheckpointError(f"{where} holds no configuration")
        unknown = data.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise CheckpointError(
                f"{where} has options that this graphir does not know: {', '.join(map(flag, sorted(unknown)))}; "
                "use the graphir that wrote it, or a newer one"
            )
        items: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        try:
            return cls(**items).check()
        except ConfigError as error:
            raise CheckpointError(f"{where} holds an impossible configuration: {error}") from None

    def differences(self, other: TrainConfig) -> list[str]:
        """`--width 128, not 64` for each option that may not differ when a run goes on, and does."""
        mine, theirs = self.resolved(), other.resolved()
        return [
            f"{flag(each.name)} {getattr(theirs, each.name)}, not {getattr(mine, each.name)}"
            for each in fields(self)
            if not each.metadata["free"] and getattr(mine, each.name) != getattr(theirs, each.name)
        ]


def flag(name: str) -> str:
    """`--feed-forward` of `feed_forward`."""
    return f"--{name.replace('_', '-')}"


def kind_of(name: str, default: Any) -> type:
    """The type of an option's value; one without default is a whole number, but for the plan's name."""
    return str if name == "plan" else int if default is None else type(default)


def _check_value(name: str, value: Any, default: Any, metadata: Mapping[str, Any]) -> None:
    """ConfigError unless `value` is of the default's type and within the declared limits."""
    option = flag(name)
    if name == "text":
        if not isinstance(value, tuple) or not all(isinstance(each, str) for each in value):
            raise ConfigError(f"text must be a tuple of paths, not {_shown(value)}")
        return
    if value is None and default is None:
        return
    kind = kind_of(name, default)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (isinstance(value, float) or whole if kind is float else whole if kind is int else type(value) is kind):
        raise ConfigError(f"{option} must be {kind.__name__}, not {_shown(value)}")
    if kind is float and not -_LARGEST <= value <= _LARGEST:  # a whole number may be too large for a float
        raise ConfigError(f"{option} must be a finite number, not {_shown(value)}")
    below = _BELOW if kind is int and metadata["below"] is None else metadata["below"]
    if metadata["choices"] and value not in metadata["choices"]:
        raise ConfigError(f"{option} {_shown(value)} is none of {', '.join(metadata['choices'])}")
    if metadata["positive"] and value <= 0:
        raise ConfigError(f"{option} must be greater than 0, not {_shown(value)}")
    if metadata["least"] is not None and value < metadata["least"]:
        raise ConfigError(f"{option} must be at least {metadata['least']}, not {_shown(value)}")
    if below is not None and value >= below:
        raise ConfigError(f"{option} must be less than {below}, not {_shown(value)}")


def _shown(value: object) -> str:
    """As Python writes it, but for what would fill a page."""
    if isinstance(value, int) and abs(value) >= _ENDLESS:
        return "a number of more than 30 digits"
    return reprlib.repr(value)
