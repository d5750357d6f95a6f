"""The problem in JAX, as its users write it: pure functions of a dict of arrays, value_and_grad, one jit around all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from benchmarks.contestants.problem import OPTIMIZER, Problem, norm
from graphir.backends.blas import median_seconds

Arrays: TypeAlias = dict[str, jax.Array]


def rate() -> float:
    A, B = jax.random.uniform(jax.random.key(0), (2, 1024, 1024))
    multiply = jax.jit(jnp.matmul)
    return 2e-9 * 1024**3 / median_seconds(lambda: multiply(A, B).block_until_ready(), 7)


def loss_of(weights: Arrays, ids: jax.Array, targets: jax.Array, key: jax.Array, problem: Problem) -> jax.Array:
    """The mean loss of T, Y [B, S]."""
    keys = iter(jax.random.split(key, 4 * problem.layers + 1))
    p, heads = (0.0 if problem.what == "forward" else problem.dropout), problem.sizes["N_H"]
    x = _dropout(weights["embedding/E"][ids] + weights["embedding/P_theta"], p, next(keys))
    for layer in range(problem.layers):
        x = x + _attention(_within(weights, f"layer{layer}/mha/"), x, heads, p, keys)
        x = x + _feed_forward(_within(weights, f"layer{layer}/mlp/"), x, p, keys)
    logits = _norm(_within(weights, "output/"), x) @ weights["embedding/E"].T + weights["output/b_lm"]
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen).mean()


def _attention(w: Arrays, x: jax.Array, heads: int, p: float, keys: Any) -> jax.Array:
    B, S, D = x.shape
    normal = _norm(w, x)
    q, k, v = ((normal @ w[f"W_{each}"]).reshape(B, S, heads, D // heads) for each in "QKV")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(D // heads).astype(x.dtype)
    scores = jnp.where(jnp.tri(S, dtype=bool), scores, -jnp.inf)
    weights = _dropout(jax.nn.softmax(scores, axis=-1), p, next(keys))
    joined = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(B, S, D)
    return _dropout(joined @ w["W_O"] + w["b_O"], p, next(keys))


def _feed_forward(w: Arrays, x: jax.Array, p: float, keys: Any) -> jax.Array:
    inner = jax.nn.gelu(_norm(w, x) @ w["W_up"] + w["b_up"], approximate=True)
    return _dropout(_dropout(inner, p, next(keys)) @ w["W_down"] + w["b_down"], p, next(keys))


def _norm(w: Arrays, x: jax.Array) -> jax.Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5) * w["gamma"] + w["beta"]


def _dropout(x: jax.Array, p: float, key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, 1 - p, x.shape), x / (1 - p), 0) if p else x


def _within(weights: Arrays, scope: str) -> Arrays:
    return {name.removeprefix(scope): array for name, array in weights.items() if name.startswith(scope)}


def update(weights: Arrays, grads: Arrays, m: Arrays, v: Arrays, step: jax.Array) -> tuple[Arrays, Arrays, Arrays]:
    """AdamW with graphir's constants, which spares vectors from decay."""
    b1, b2, rate = OPTIMIZER.beta1, OPTIMIZER.beta2, OPTIMIZER.learning_rate
    m = {name: b1 * m[name] + (1 - b1) * grad for name, grad in grads.items()}
    v = {name: b2 * v[name] + (1 - b2) * grad**2 for name, grad in grads.items()}
    count = step + 1.0

    def moved(name: str, w: jax.Array) -> jax.Array:
        decay = OPTIMIZER.weight_decay if w.ndim > 1 else 0.0
        towards = m[name] / (1 - b1**count) / (jnp.sqrt(v[name] / (1 - b2**count)) + OPTIMIZER.epsilon)
        return w * (1 - rate * decay) - rate * towards

    return {name: moved(name, w) for name, w in weights.items()}, m, v


def prepare(
    problem: Problem, parameters: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[Callable[[], None], Callable[[], dict[str, float]]]:
    # An optimizer's state bears its parameter's name and a suffix; here it is not among the weights.
    weights = {name: jnp.array(array) for name, array in parameters.items() if "." not in name}
    m, v = ({name: jnp.zeros_like(array) for name, array in weights.items()} for _ in range(2))
    ids, targets = jnp.asarray(batch["T"], jnp.int32), jnp.asarray(batch["Y"], jnp.int32)
    loss = partial(loss_of, problem=problem)
    held: Any = (weights, m, v) if problem.what == "optimizer" else (weights,)
    base, count = jax.random.key(0), 0

    @partial(jax.jit, donate_argnums=0)
    def train(held: Any, ids: jax.Array, targets: jax.Array, step: jax.Array) -> tuple[jax.Array, Any]:
        weights, m, v = held
        found, grads = jax.value_and_grad(loss)(weights, ids, targets, jax.random.fold_in(base, step))
        return found, update(weights, grads, m, v, step)

    @jax.jit
    def differentiate(weights: Arrays, ids: jax.Array, targets: jax.Array, step: jax.Array) -> tuple[jax.Array, Arrays]:
        return jax.value_and_grad(loss)(weights, ids, targets, jax.random.fold_in(base, step))

    @jax.jit
    def evaluate(weights: Arrays, ids: jax.Array, targets: jax.Array, step: jax.Array) -> tuple[jax.Array, Any]:
        return loss(weights, ids, targets, base), ()

    def once() -> tuple[jax.Array, Any]:
        nonlocal held, count
        if problem.what == "optimizer":
            found, held = train(held, ids, targets, count)
            result = found, held
        else:
            result = (evaluate if problem.what == "forward" else differentiate)(held[0], ids, targets, count)
        count += 1
        return jax.block_until_ready(result)

    def step() -> None:
        once()

    def check() -> dict[str, float]:
        first, rest = once()
        found = {"loss": float(first)}
        if problem.what == "optimizer":
            found["next loss"] = float(once()[0])
        elif problem.what == "gradients":
            found["norm"] = norm(rest.values())
        return found

    return step, check
