"""The problem in PyTorch, as its users write it: modules, one map to Q, K and V, its own attention, fused AdamW."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.contestants.problem import OPTIMIZER, Problem, norm
from graphir.backends.blas import median_seconds


def rate() -> float:
    A, B = torch.rand(2, 1024, 1024)
    C = torch.empty_like(A)
    return 2e-9 * 1024**3 / median_seconds(lambda: torch.mm(A, B, out=C), 7)


class Attention(nn.Module):
    """X [B, S, D] to A_out [B, S, D]."""

    def __init__(self, width: int, heads: int, p: float) -> None:
        super().__init__()
        self.heads, self.p = heads, p
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        heads = self.attend(q, k, v, self.p if self.training else 0.0)
        return self.dropout(self.out(heads.transpose(1, 2).flatten(2)))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: float) -> torch.Tensor:
        """Causal attention of all heads, [B, N_H, S, D_h]."""
        return functional.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)


class PlainAttention(Attention):
    """Attention as a textbook has it: a product, a mask, a softmax, dropout, a product."""

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: float) -> torch.Tensor:
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        behind = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        weights = functional.softmax(scores.masked_fill(behind, float("-inf")), dim=-1)
        return functional.dropout(weights, p, p > 0) @ v


class FeedForward(nn.Sequential):
    """X [B, S, D] to Y [B, S, D] by way of D_ff."""

    def __init__(self, width: int, inner: int, p: float) -> None:
        super().__init__(
            nn.LayerNorm(width),
            nn.Linear(width, inner),
            nn.GELU(approximate="tanh"),
            nn.Dropout(p),
            nn.Linear(inner, width),
            nn.Dropout(p),
        )


class Transformer(nn.Module):
    """T, Y [B, S] to the mean loss."""

    def __init__(self, problem: Problem, attention: type[Attention] = Attention) -> None:
        super().__init__()
        sizes, p = problem.sizes, problem.dropout
        width = sizes["D"]
        self.tokens = nn.Embedding(sizes["V"], width)
        self.places = nn.Parameter(torch.empty(sizes["S"], width))
        self.dropout = nn.Dropout(p)
        self.attention = nn.ModuleList(attention(width, sizes["N_H"], p) for _ in range(problem.layers))
        self.feed_forward = nn.ModuleList(FeedForward(width, sizes["D_ff"], p) for _ in range(problem.layers))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, sizes["V"])
        self.logits.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.tokens(ids) + self.places)
        for attention, feed_forward in zip(self.attention, self.feed_forward, strict=True):
            x = x + attention(x)
            x = x + feed_forward(x)
        return functional.cross_entropy(self.logits(self.norm(x)).flatten(0, 1), targets.flatten())

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fills every parameter from graphir's, whose matrices are transposed, as they multiply from the right."""
        parameters = dict(self.named_parameters())
        filled = set()
        with torch.no_grad():
            for name, array in _renamed(arrays, len(self.attention)):
                parameters[name].copy_(torch.as_tensor(array))
                filled.add(name)
        missing = sorted(set(parameters) - filled)
        if missing:
            raise ValueError(f"the parameters give no {', '.join(missing)}")


def _renamed(arrays: Mapping[str, np.ndarray], layers: int) -> Iterator[tuple[str, np.ndarray]]:
    yield "tokens.weight", arrays["embedding/E"]
    yield "places", arrays["embedding/P_theta"]
    for layer in range(layers):
        mha, mlp = f"layer{layer}/mha", f"layer{layer}/mlp"
        at = f"attention.{layer}"
        yield from _norm(f"{at}.norm", arrays, mha)
        yield f"{at}.qkv.weight", np.concatenate([arrays[f"{mha}/W_{each}"].T for each in "QKV"])
        yield from _linear(f"{at}.out", arrays, mha, "O")
        at = f"feed_forward.{layer}"
        yield from _norm(f"{at}.0", arrays, mlp)
        yield from _linear(f"{at}.1", arrays, mlp, "up")
        yield from _linear(f"{at}.4", arrays, mlp, "down")
    yield from _norm("norm", arrays, "output")
    yield "logits.bias", arrays["output/b_lm"]


def _linear(name: str, arrays: Mapping[str, np.ndarray], scope: str, which: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", arrays[f"{scope}/W_{which}"].T
    yield f"{name}.bias", arrays[f"{scope}/b_{which}"]


def _norm(name: str, arrays: Mapping[str, np.ndarray], scope: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", arrays[f"{scope}/gamma"]
    yield f"{name}.bias", arrays[f"{scope}/beta"]


def prepare(
    problem: Problem, parameters: Mapping[str, Any], batch: Mapping[str, Any], compiled: bool = False
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    torch.manual_seed(0)
    model = Transformer(problem)
    model.load(parameters)
    ids, targets = torch.as_tensor(batch["T"]), torch.as_tensor(batch["Y"])
    return contest(problem, model, ids, targets, compiled)


def contest(
    problem: Problem,
    model: nn.Module,
    ids: torch.Tensor,
    targets: torch.Tensor,
    compiled: bool,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    """A step of the problem, and a check, of a model that has its parameters; the loss is made under `autocast`."""
    model.train(problem.what != "forward")
    loss_of: Callable[..., torch.Tensor] = torch.compile(model) if compiled else model
    optimizer = adamw(model) if problem.what == "optimizer" else None

    def once() -> torch.Tensor:
        with autocast():
            if problem.what == "forward":
                with torch.inference_mode():
                    return loss_of(ids, targets)
            model.zero_grad(set_to_none=True)
            loss = loss_of(ids, targets)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        return loss

    def step() -> None:
        once()

    def check() -> dict[str, float]:
        found = {"loss": once().item()}
        if optimizer is not None:
            found["next loss"] = once().item()
        elif problem.what == "gradients":
            found["norm"] = norm(each.grad.cpu() for each in model.parameters() if each.grad is not None)
        return found

    return step, check


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with graphir's constants, which spares vectors from decay."""
    matrices = [each for each in model.parameters() if each.dim() > 1]
    vectors = [each for each in model.parameters() if each.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": OPTIMIZER.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=OPTIMIZER.learning_rate,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        eps=OPTIMIZER.epsilon,
        fused=True,
    )
