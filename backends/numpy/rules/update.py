"""Rules of optimizers and of clipping: SGD, Adam, AdamW, the clip factor and rescaling.

`lr` and `step` are known at run time only: what follows from them is written once a run, into arrays []. So is whether
an update is to happen (`ok`): where it is not, none of its calls is carried out, and the new is a copy of the old.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from graphir.backends.compiled.emission import Array, Calls, Function
from graphir.backends.effects import Effects, effects_of, judges, writes
from graphir.backends.numpy.engine import minimum, rules
from graphir.backends.numpy.rules.shared import made, number
from graphir.operators.update import adam, adamw, clip_factor, rescale, sgd


@dataclass(frozen=True)
class _Guarded:
    """Calls that are carried out only if `ok` holds by then."""

    call: Calls
    ok: Array

    def __call__(self, function: Function, *arguments: Any) -> None:
        self.call(_carry_out_if, self.ok, function, *arguments)

    def scratch(self, shape: Sequence[int], dtype: DTypeLike) -> Array:
        return self.call.scratch(shape, dtype)

    def prepared(self, shape: Sequence[int], dtype: DTypeLike, function: Function, *arguments: Any) -> Array:
        return self.call.prepared(shape, dtype, function, *arguments)

    def constant(self, make: Callable[..., Array], *arguments: Any) -> Array:
        return self.call.constant(make, *arguments)


def _guarded(call: Calls, ok: Array | None, *pairs: tuple[Array | None, Array]) -> Calls:
    """Where an update's calls go; of `pairs`, the new and the old, the new is the old where it is not to happen."""
    if ok is None:
        return call
    for new, old in pairs:
        if new is not None:
            call(_copy_unless, ok, new, old)
    return _Guarded(call, ok)


def _carry_out_if(ok: Array, function: Function, *arguments: Any) -> None:
    if ok:
        function(*arguments)


@judges(_carry_out_if)
def _effects_if(ok: Array, function: Function, *arguments: Any) -> Effects | None:
    """Those of the call; where it is not carried out, `_copy_unless` has written in its place."""
    found = effects_of(function, arguments)
    return None if found is None else Effects([ok, *found.reads], found.writes, found.spans)


@writes("new")
def _copy_unless(ok: Array, new: Array, old: Array) -> None:
    if not ok:
        np.copyto(new, old)


@rules.emits(sgd, inplace={"W_new": "W dW", "u_new": "u"})
def _sgd(
    call: Calls,
    W: Array,
    dW: Array,
    u: Array,
    lr: Array,
    ok: Array | None,
    W_new: Array | None,
    u_new: Array | None,
    *,
    momentum: float,
    weight_decay: float,
) -> None:
    call = _guarded(call, ok, (W_new, W), (u_new, u))
    W_new, u_new = made(call, W_new, W), made(call, u_new, u)
    change, rate = call.scratch(W.shape, W.dtype), call.prepared((), W.dtype, _write_rate, lr)
    call(np.multiply, u, number(momentum, u), u_new)
    call(np.add, u_new, dW, u_new)
    if weight_decay:
        call(np.multiply, W, number(weight_decay, W), change)
        call(np.add, u_new, change, u_new)
    call(np.multiply, u_new, rate, change)
    call(np.subtract, W, change, W_new)


@rules.emits(adam, inplace={"W_new": "W dW", "m_new": "m", "v_new": "v"})
def _adam(
    call: Calls,
    W: Array,
    dW: Array,
    m: Array,
    v: Array,
    step: Array,
    lr: Array,
    ok: Array | None,
    W_new: Array | None,
    m_new: Array | None,
    v_new: Array | None,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    call = _guarded(call, ok, (W_new, W), (m_new, m), (v_new, v))
    change = _record_change(call, dW, m, v, step, lr, m_new, v_new, beta1, beta2, epsilon)
    if W_new is not None:
        call(np.subtract, W, change, W_new)


@rules.emits(adamw, inplace={"W_new": "W dW", "m_new": "m", "v_new": "v"})
def _adamw(
    call: Calls,
    W: Array,
    dW: Array,
    m: Array,
    v: Array,
    step: Array,
    lr: Array,
    ok: Array | None,
    W_new: Array | None,
    m_new: Array | None,
    v_new: Array | None,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
) -> None:
    call = _guarded(call, ok, (W_new, W), (m_new, m), (v_new, v))
    change = _record_change(call, dW, m, v, step, lr, m_new, v_new, beta1, beta2, epsilon)
    if W_new is not None:
        shrink = call.prepared((), W.dtype, _write_shrink, lr, weight_decay)
        call(np.multiply, W, shrink, W_new)
        call(np.subtract, W_new, change, W_new)


def _record_change(
    call: Calls,
    dW: Array,
    m: Array,
    v: Array,
    step: Array,
    lr: Array,
    m_new: Array | None,
    v_new: Array | None,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> Array:
    """Records the new moments and returns the change of W, in a scratch buffer.

    lr m̂ / (√v̂ + ε) = η m / (√v + ε c) with c = √(1 − β₂ᵗ), η = lr c / (1 − β₁ᵗ): one pass less over memory.
    """
    m_new, v_new = made(call, m_new, m), made(call, v_new, v)
    change = call.scratch(dW.shape, dW.dtype)
    numbers = call.prepared((2,), dW.dtype, _write_corrections, step, lr, beta1, beta2, epsilon)
    call(np.multiply, m, number(beta1, m), m_new)
    call(np.multiply, dW, number(1 - beta1, dW), change)
    call(np.add, m_new, change, m_new)
    call(np.square, dW, change)
    call(np.multiply, change, number(1 - beta2, dW), change)
    call(np.multiply, v, number(beta2, v), v_new)
    call(np.add, v_new, change, v_new)
    call(np.sqrt, v_new, change)
    call(np.add, change, numbers[1, ...], change)
    call(np.divide, m_new, change, change)
    call(np.multiply, change, numbers[0, ...], change)
    return change


@writes("numbers")
def _write_corrections(step: Array, lr: Array, beta1: float, beta2: float, epsilon: float, numbers: Array) -> None:
    t = int(step) + 1
    c = (1 - beta2**t) ** 0.5
    numbers[:] = float(lr) * c / (1 - beta1**t), epsilon * c


@writes("rate")
def _write_rate(lr: Array, rate: Array) -> None:
    np.copyto(rate, lr)


@writes("shrink")
def _write_shrink(lr: Array, weight_decay: float, shrink: Array) -> None:
    shrink[...] = 1 - float(lr) * weight_decay


@rules.emits(clip_factor)
def _clip_factor(call: Calls, n: Array, s: Array | None, c: Array | None, norm: Array | None, *, limit: float) -> None:
    norm = made(call, norm, n)
    call(np.sqrt, n, norm)
    if s is not None:
        call(np.divide, norm, s, norm)
    if c is not None:
        call(np.add, norm, number(1e-6, n), c)
        call(np.divide, number(limit, n), c, c)
        call(minimum, c, number(1, n), c)
        if s is not None:
            call(np.divide, c, s, c)


@rules.emits(rescale, inplace={"Y": "X"})
def _rescale(call: Calls, X: Array, c: Array, Y: Array) -> None:
    call(np.multiply, X, c, Y)
