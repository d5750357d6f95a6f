"""What a training run is: every choice that its numbers follow from, each declared once.

What is the model's own is declared beside it and only has another default here. An option's declaration says all that
others need of it: the command line makes a flag of it, `check` knows its limits, a resumed run whether it may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from graphir.errors import CheckpointError, ConfigError
from graphir.ir.layout import Mesh
from graphir.models.blueprint import Blueprint
from graphir.models.presets import NAMES, blueprint
from graphir.models.sizes import DIMS, HELD, STORED, WEIGHTS, Sizes, named_sizes
from graphir.models.transformer import Architecture
from graphir.options import checked, flag, option, options_of, varied

#: What matrix products may read and return, as `graphir.passes` has it; that room is not loaded for a help text.
PRECISIONS = ("float32", "bfloat16", "float16")
RESULTS = ("wide", "narrow")
#: Products of float32 as `gi.compile(…, precision="tf32")` has them multiplied.
TF32 = "tf32"
#: The tokenizer whose tokens are bytes.
BYTES = "bytes"
#: Where in the folder of a run the model of others lies that it has trained.
TRAINED = "model"
#: The sizes that a model by --model has of its own: unsaid, they are None until `TrainConfig.check` fills them in.
UNSAID = ("layers", "width", "heads")
#: Where a dynamic loss scale starts.
DYNAMIC_START = 65536.0

_text, _tuning, _optimization, _parallel, _output = (
    partial(option, group=group) for group in ("Text", "Fine-tuning", "Optimization", "Parallel", "Output")
)
#: What those of `UNSAID` are of the documents' Transformer: options whose defaults are its own.
OF_DOCUMENTS = {name: {**options_of(Architecture), **options_of(Sizes)}[name] for name in UNSAID}
_DOCUMENTS = {name: each.default for name, each in OF_DOCUMENTS.items()}
#: The schedule's peak where nobody says one: of random weights, of a model's weights, of matrices beside them.
_FRESH, _WHOLE, _BESIDE = 3e-3, 2e-5, 2e-4


def _of_its_own(help: str, otherwise: int) -> str:
    return f"{help}  [default: {otherwise}; of a --model its own]"


@dataclass(frozen=True, kw_only=True)
class Text:
    """What is trained on."""

    text: tuple[str, ...] = _text(
        (), "A file of UTF-8 text to train on, repeatable; without it, Python's reference prose.", free=True
    )
    tokenizer: str = _text(
        BYTES, "'bytes' or the path of a Hugging Face tokenizer.json.  [default of a --model: its own]", free=True
    )
    validation: float = _text(
        0.1, "Share of the text, from its end, that is kept for validation.", positive=True, below=1
    )


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Which model it is, if not the documents', what it begins from, and what of it is trained."""

    model: str | None = option(
        None,
        "A folder, or a GGUF file, whose model is trained further; or a model by name, such as llama3-8b, from random "
        "weights, of its own sizes or of those that are given. The trained model is written as a folder, too.",
        kind=str,
    )
    size: tuple[str, ...] = option(
        (), "Of a model by name: how large a dim is that no other option says, such as N_KV=2, repeatable.",
        metavar="DIM=N",
    )  # fmt: skip
    lora: int | None = _tuning(
        None,
        "r: A•B of this rank is trained beside matrices of its layers, as LoRA has it, and nothing else. Checkpoints "
        "hold A and B alone, and know the weights beside them by a hash of their files; the folder at the end has A•B "
        "added in.  [default: all weights are trained]",
        kind=int,
        least=1,
    )
    lora_on: str | None = _tuning(None, "The matrices, for example W_Q,W_V.  [default: all of its layers]", kind=str)
    lora_scale: float = _tuning(1.0, "What A•B is multiplied by; α/r elsewhere.", positive=True)
    weights: str = _tuning(WEIGHTS.default, f"With --lora: {WEIGHTS.help[0].lower()}{WEIGHTS.help[1:]}", choices=HELD)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Sizes, Architecture, Tuning, Text):
    """A run's choices. Errors: `check` raises ConfigError, naming the option and what it may be.

    The default of an option that is added later has to mean what was before: checkpoints that are older lack it.
    """

    layers: int = varied(Architecture, "layers", default=None, help=_of_its_own("L, the number of layers.", 2))
    width: int = varied(Sizes, "width", default=None, help=_of_its_own("D, the width of the model.", 128))
    heads: int = varied(Sizes, "heads", default=None, help=_of_its_own("N_H, attention heads; they divide D.", 4))
    feed_forward: int | None = varied(
        Sizes, "feed_forward", help="D_ff, the width inside an MLP.  [default: 4 D; of a --model its own share of D]"
    )
    # Short runs of small models, for which there is text enough, learn most without dropout.
    dropout: float = varied(Architecture, "dropout", default=0.0)
    activation: str = varied(Architecture, "activation", default="relu")
    batch: int = varied(Sizes, "batch", group="Optimization")

    precision: str = option(
        "float32",
        "What matrix products read: float32 for the floats of --dtype, or 16 bits, their sums and all else in --dtype; "
        "tf32, on a GPU: float32 with 10 bits after the point.",
        choices=(*PRECISIONS, TF32),
    )
    results: str = option(
        "wide",
        "What products of 16 bits return: wide, as it was added up, or narrow, rounded to 16 bits, as PyTorch's "
        "autocast has it: fewer bytes are written, held and sent. A weight's gradient is wide either way.",
        choices=RESULTS,
    )
    vocabulary_multiple: int | None = option(
        None,
        "V_pad: the vocabulary's tensors get rows of zeros up to the next multiple of this, on each rank that shares "
        "them. Tensor cores are fast on rows of whole 16 bytes, which an odd V has not; all numbers stay those of V, "
        "which is what checkpoints hold.  [default: as the backend likes them, 64 on a GPU]",
        least=1,
        free=True,
        kind=int,
    )

    steps: int = _optimization(2400, "Steps in all, those before a resumption included.", least=1, free=True)
    optimizer: str = _optimization("adamw", "The update.", choices=("sgd", "adam", "adamw"))
    learning_rate: float | None = _optimization(
        None,
        f"The schedule's peak.  [default: {_FRESH:g}; of a --model {_WHOLE:g}, with --lora {_BESIDE:g}]",
        positive=True,
        kind=float,
    )
    schedule: str = _optimization(
        "cosine", "How the rate goes on after the warm-up.", choices=("constant", "linear", "cosine")
    )
    warmup: int | None = _optimization(
        None, "Steps of linear rise.  [default: a twentieth of the schedule]", least=0, kind=int
    )
    schedule_steps: int | None = _optimization(
        None, "The step at which the rate has fallen to its floor.  [default: --steps]", least=1, kind=int
    )
    floor: float = _optimization(0.05, "The floor, as a share of the peak.", least=0, below=1)
    weight_decay: float = _optimization(0.1, "Decay of matrices (SGD and AdamW).", least=0)
    clip: float = _optimization(1.0, "Limit of the gradients' global norm; 0 for none.", least=0)
    loss_scale: float = _optimization(
        0.0,
        "What the loss is multiplied by under --precision float16; 0: a number that follows the gradients, from 65536.",
        least=0,
    )
    seed: int = _optimization(0, "What initial parameters, data order and dropout follow from.", least=0, below=2**63)

    dp: int = _parallel(1, "N_DP, ranks that share the batch.", least=1, free=True)
    cp: int = _parallel(1, "Ranks that share the sequence.", least=1, free=True)
    tp: int = _parallel(1, "N_T, ranks that share heads and D_ff.", least=1, free=True)
    plan: str | None = _parallel(
        None,
        "How, for example sequence, data+zero1 or tp:D_ff,N_H; the usual plan is added for each axis left out."
        "  [default: data, context, megatron]",
        free=True,
        kind=str,
    )

    validate_every: int = _output(200, "Steps between validations; 0: only at the end.", least=0, free=True)
    validate_batches: int = _output(
        16, "Batches a validation, spread evenly over its text; 0: all of it.", least=0, free=True
    )
    checkpoint_every: int = _output(400, "Steps between checkpoints; 0: only at the end.", least=0, free=True)
    keep: int = _output(2, "How many of the latest checkpoints to keep; 0: all.", least=0, free=True)
    sample: int = _output(300, "Tokens of the sample shown at the end.", least=0, free=True)

    # -- checks ---------------------------------------------------------------------------------------

    def check(self) -> TrainConfig:
        """The configuration as it is kept, if every option is of its type and within its limits.

        Sizes that nobody said are filled in: the documents', or those of the model by name; a model with weights has
        its own.
        """
        kept = replace(self, **checked(self, flag))
        if self.model is not None:
            kept = kept._with_weights(self.model) if self.has_weights else kept._by_name(self.model)
        elif self.size:
            raise ConfigError(f"--size {self.size[0]} is for a model by name; say which by --model")
        else:
            kept = kept._of_documents()
        if self.lora is not None and not self.has_weights:
            which = f"{self.model} by its name alone has none" if self.model else "name one"
            raise ConfigError(f"--lora {self.lora} adds to the weights of a folder or file by --model; {which}")
        if self.lora is None and (self.lora_on is not None or self.lora_scale != 1):
            raise ConfigError("--lora-on and --lora-scale say how A•B is added to weights; give its rank by --lora")
        if self.lora is None and self.weights == STORED:
            raise ConfigError(
                "--weights stored holds weights as they are, which training them would not; train others by --lora"
            )
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
        return kept

    def _of_documents(self) -> TrainConfig:
        """The same with the documents' sizes where nobody said others."""
        return replace(self, **{name: each for name, each in _DOCUMENTS.items() if getattr(self, name) is None})

    def _by_name(self, model: str) -> TrainConfig:
        """The same with the sizes of the model by name; ConfigError for what its name says, and for what it cannot be.

        What is written, a V say, is what the text's tokenizer has.
        """
        self._refuse(model, options_of(Architecture).keys() - {"layers"}, "is what the name of {} says")
        sizes = named_sizes(self.size)
        foreign = sorted(sizes.keys() & {"B", "S", "V"})
        if foreign:
            hints = {"B": "give it by --batch", "S": "give it by --sequence", "V": "the tokenizer says it"}
            raise ConfigError(f"--size {foreign[0]}={sizes[foreign[0]]}: {hints[foreign[0]]}")
        twice = [name for name, dim in DIMS.items() if dim in sizes and getattr(self, name, None) is not None]
        if twice:
            raise ConfigError(f"{flag(twice[0])} and --size {DIMS[twice[0]]}=… both say {DIMS[twice[0]]}; give one")
        found = self.blueprint()
        own: dict[str, Any] = {
            name: found.sizes[DIMS[name]] for name in ("width", "heads", "feed_forward") if DIMS[name] not in sizes
        }
        return replace(self, layers=found.composition.layers, **own)

    def _with_weights(self, model: str) -> TrainConfig:
        """The same with the model's own tokenizer; ConfigError for an option that says what the model itself does."""
        if self.size:
            raise ConfigError(f"--size {self.size[0]}: {model} is as large as its weights are; leave it out")
        self._refuse(
            model, {*options_of(Architecture), "width", "heads", "feed_forward"}, "is what the model {} says itself"
        )
        # Older checkpoints have the documents' sizes there.
        unsaid: dict[str, Any] = dict.fromkeys(UNSAID)
        kept = replace(self, **unsaid)
        if self.tokenizer != BYTES:
            return kept
        file = Path(model) / "tokenizer.json"
        if Path(model).is_dir() and not file.is_file():
            raise ConfigError(f"{model} has no tokenizer.json, which a text needs; give one by --tokenizer")
        return replace(kept, tokenizer=model if model.endswith(".gguf") else str(file))

    def _refuse(self, model: str, names: Set[str], why: str) -> None:
        """ConfigError for an option among these that somebody has said."""
        defaults = {name: each.default for name, each in options_of(TrainConfig).items()}
        for name in sorted(names - {"dropout", "dtype"}):
            if getattr(self, name) not in (defaults[name], _DOCUMENTS.get(name)):
                raise ConfigError(f"{flag(name)} {why.format(model)}; leave it out beside --model")

    def resolved(self) -> TrainConfig:
        """With every default that follows from other options filled in: what a checkpoint keeps."""
        total = self.schedule_steps or self.steps
        rate = _FRESH if not self.has_weights else _WHOLE if self.lora is None else _BESIDE
        known = self if self.model else self._of_documents()
        return replace(
            known,
            learning_rate=self.learning_rate or rate,
            feed_forward=self.feed_forward if self.model else self.feed_forward or 4 * known.width,
            schedule_steps=total,
            warmup=total // 20 if self.warmup is None else self.warmup,
        )

    # -- what follows ---------------------------------------------------------------------------------

    @property
    def has_weights(self) -> bool:
        """Whether it begins with the weights of a model, and not with random ones."""
        return self.model is not None and self.model not in NAMES

    def blueprint(self) -> Blueprint:
        """The model by name, with the sizes that are said, and its own V; ConfigError for sizes that make none."""
        assert self.model is not None
        said = {DIMS[name]: getattr(self, name) for name in ("width", "heads", "feed_forward")}
        sizes = {dim: size for dim, size in said.items() if size is not None} | named_sizes(self.size)
        return blueprint(self.model, layers=self.layers, dtype=self.dtype, **sizes)

    def sizes(self, vocabulary: int) -> dict[str, int]:
        """Those of the documents' Transformer, its defaults among them."""
        return Sizes.sizes(self._of_documents(), vocabulary)

    def model_options(self, **changes: Any) -> dict[str, Any]:
        """As of `Architecture`, with the documents' number of layers where nobody said another."""
        return Architecture.model_options(self._of_documents(), **changes)

    @property
    def stored_precision(self) -> str:
        """What products read, as it is stored: under tf32, a device rounds float32 as it multiplies."""
        return "float32" if self.precision == TF32 else self.precision

    def multiple_on(self, backend: str) -> int:
        """What V_pad is a multiple of on this backend. A default is no part of the run: elsewhere it may be another."""
        from graphir.backends.registry import find_backend  # late: a help text needs no backend

        return self.vocabulary_multiple or find_backend(backend).row_multiple

    def differentiation_options(self) -> dict[str, Any]:
        """The keywords of `autodiff`: the loss scale that the precision needs."""
        if self.precision != "float16":
            return {}
        return {"loss_scale": self.loss_scale or DYNAMIC_START, "dynamic": not self.loss_scale}

    def mesh(self) -> Mesh:
        """The ranks that --dp, --cp and --tp ask for; an axis of one rank is none."""
        axes = {"dp": self.dp, "cp": self.cp, "tp": self.tp}
        return Mesh({axis: count for axis, count in axes.items() if count > 1})

    # -- to and from checkpoints ----------------------------------------------------------------------

    def placed(self) -> TrainConfig:
        """The same with whole paths, which hold wherever somebody goes on from."""
        tokenizer = self.tokenizer if self.tokenizer == BYTES else _whole(self.tokenizer)
        model = _whole(self.model) if self.model is not None and self.has_weights else self.model
        return replace(self, tokenizer=tokenizer, text=tuple(map(_whole, self.text)), model=model)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    @classmethod
    def from_dict(cls, data: object, where: str) -> TrainConfig:
        """The configuration that a checkpoint holds; what that is too old to know is as it was then.

        CheckpointError, with `where`, if it is none, or has options that came later.
        """
        if not isinstance(data, Mapping):
            raise CheckpointError(f"{where} holds no configuration")
        unknown = data.keys() - options_of(cls)
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
            f"{flag(name)} {getattr(theirs, name)}, not {getattr(mine, name)}"
            for name, declared in options_of(type(self)).items()
            if not declared.free and getattr(mine, name) != getattr(theirs, name)
        ]


def _whole(path: str) -> str:
    return str(Path(path).resolve())
