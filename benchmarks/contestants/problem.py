"""What all contestants compute: GPT-2-style Transformers of several sizes, with tied embeddings, in float32.

On a GPU, products may read less: factors rounded to tf32, or to bfloat16, and sums in float32.

Learned positions, pre-LN layers, Q, K and V without biases, GELU by tanh, a final LN, a bias on the logits, causal
attention; dropout, where there is any, on the embedding, the attention weights, inside the MLP and on both residual
branches. Parameters and batch are the same for all; their names are graphir's.

GPT-2's vocabulary is odd, so its logits' rows start anywhere, which no tensor core likes. `gpt2` is that model: who can
may pad its vocabulary, as long as loss and gradients are those of the 50257 tokens. `gpt2-50304` is the model that
people train instead, with more tokens than texts have, so that nobody has to.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import graphir as gi
from graphir.backends.registry import find_backend
from graphir.ir.graph import Graph
from graphir.passes import Optimizer, autodiff, mixed_precision, optimize
from graphir.training.vocabulary import Vocabulary

#: Layers, and the dims of the model.
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"L": 2, "B": 2, "S": 32, "D": 64, "N_H": 4, "D_ff": 256, "V": 256},
    "small": {"L": 4, "B": 8, "S": 128, "D": 256, "N_H": 8, "D_ff": 1024, "V": 1024},
    "medium": {"L": 6, "B": 4, "S": 256, "D": 512, "N_H": 8, "D_ff": 2048, "V": 8192},
    "large": {"L": 12, "B": 1, "S": 512, "D": 768, "N_H": 12, "D_ff": 3072, "V": 50257},
    "gpt2": {"L": 12, "B": 8, "S": 1024, "D": 768, "N_H": 12, "D_ff": 3072, "V": 50257},
    "gpt2-50304": {"L": 12, "B": 8, "S": 1024, "D": 768, "N_H": 12, "D_ff": 3072, "V": 50304},
}

#: What of a step is done: the loss alone; the loss and all gradients; these and the update of all parameters.
WORK = ("forward", "gradients", "optimizer")

#: What products read, and how far apart, relative, the same numbers may then be.
PRECISIONS = {"float32": 2e-4, "tf32": 1e-3, "bfloat16": 5e-3}

OPTIMIZER = Optimizer("adamw", learning_rate=1e-4, weight_decay=0.01)


@dataclass(frozen=True)
class Problem:
    """One of the sizes, one of the kinds of work, the rate of dropout, and what products read."""

    size: str = "small"
    what: str = "gradients"
    dropout: float = 0.0
    precision: str = "float32"

    @property
    def layers(self) -> int:
        """L."""
        return SIZES[self.size]["L"]

    @property
    def sizes(self) -> dict[str, int]:
        """The dims of the model by name, without L; V_pad where it is more than V."""
        return {name: size for name, size in SIZES[self.size].items() if name != "L"} | self.vocabulary.sizes

    @property
    def vocabulary(self) -> Vocabulary:
        """V and V_pad."""
        return Vocabulary.of(SIZES[self.size]["V"], 1)

    def graph(self) -> Graph:
        """The work as a graph; its outputs are what has to be computed."""
        padded = self.vocabulary.padded
        options = {"dropout": self.dropout, "decode": None, "activation": "gelu_tanh", "padded": padded}
        model = gi.models.transformer(self.layers, **options)
        if self.precision == "bfloat16":
            # As PyTorch's autocast has it.
            model = mixed_precision(model, "bfloat16", results="narrow")
        if self.what == "forward":
            return model
        return optimize(autodiff(model), OPTIMIZER) if self.what == "optimizer" else autodiff(model)

    def parameters(self) -> dict[str, np.ndarray]:
        """Parameters, and an optimizer's state where there is one, by graphir's names; of the vocabulary V rows."""
        return gi.initialize(self.graph(), {**self.sizes, **self.vocabulary.unpadded})

    def batch(self) -> dict[str, Any]:
        """The graph's inputs: T and Y [B, S], ids drawn evenly, and seed and step, which dropout is keyed by."""
        shape = self.sizes["B"], self.sizes["S"]
        T, Y = np.random.default_rng(0).integers(0, self.sizes["V"], (2, *shape))
        return {"T": T, "Y": Y, "seed": 0, "step": 0}

    def __str__(self) -> str:
        dims = " ".join(f"{name}{size}" for name, size in SIZES[self.size].items())
        precision = "" if self.precision == "float32" else f", {self.precision}"
        return f"{self.size} ({dims}), {self.what}, dropout {self.dropout:g}{precision}"

    def to_json(self) -> dict[str, Any]:
        """The problem with its dims."""
        return {**asdict(self), "sizes": SIZES[self.size]}


class PaddedProblem(Problem):
    """The same loss, gradients, parameters and batch, with the rows that training on a GPU gives a vocabulary."""

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.of(SIZES[self.size]["V"], find_backend("cupy").row_multiple)


def norm(arrays: Any) -> float:
    """The Euclidean norm of all arrays together, in float64."""
    return float(sum(float(np.vdot(a, a)) for a in (np.asarray(each, np.float64).ravel() for each in arrays)) ** 0.5)
