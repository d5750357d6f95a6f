"""Optimizers as graph nodes: a differentiated graph in, a whole training step out (B 3.5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphir.errors import ConfigError
from graphir.ir.builder import Builder
from graphir.ir.collector import without_collector
from graphir.ir.graph import UPDATE, Graph
from graphir.ir.operator import Operator
from graphir.ir.types import widest
from graphir.ir.value import Value, gradient_name
from graphir.operators.cast import cast_to
from graphir.operators.elementwise import add
from graphir.operators.loss_scale import adjust_scale
from graphir.operators.update import adam, adamw, clip_factor, is_finite, rescale, schedule, sgd, square_sum
from graphir.passes.autodiff import GOOD, SCALE


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the step, which counts from 0.

    A linear rise to `peak` over `warmup` steps, then `kind`: constant, or a linear or cosine fall to `floor`
    at step `total`.
    """

    peak: float
    kind: str = "constant"
    warmup: int = 0
    total: int = 0
    floor: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """Which update, with which constants. `clip` limits the global norm of all gradients, if given.

    A graph with a dynamic loss scale has it multiplied by `growth` after `growth_interval` good steps in a row, and by
    `backoff` after a step with a gradient that is not finite.
    """

    kind: str = "adamw"
    learning_rate: float | Schedule = 1e-3
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    clip: float | None = None
    growth: float = 2.0
    backoff: float = 0.5
    growth_interval: int = 2000

    #: Which parameters decay. The usual choice spares vectors: biases and the scales of normalizations.
    decays: Callable[[Value], bool] = lambda parameter: parameter.type.rank > 1

    def __post_init__(self) -> None:
        rate = self.learning_rate
        limits = {
            "learning_rate": (rate, isinstance(rate, Schedule) or 0 < rate < math.inf, "positive"),
            "momentum": (self.momentum, 0 <= self.momentum < 1, "in [0, 1)"),
            "beta1": (self.beta1, 0 <= self.beta1 < 1, "in [0, 1)"),
            "beta2": (self.beta2, 0 <= self.beta2 < 1, "in [0, 1)"),
            "epsilon": (self.epsilon, 0 < self.epsilon < math.inf, "positive"),
            "weight_decay": (self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or positive"),
            "clip": (self.clip, self.clip is None or self.clip > 0, "positive, or None"),
            "growth": (self.growth, 1 <= self.growth < math.inf, "1 or more"),
            "backoff": (self.backoff, 0 < self.backoff <= 1, "in (0, 1]"),
            "growth_interval": (self.growth_interval, self.growth_interval >= 1, "1 or more"),
        }
        for name, (value, fine, needed) in limits.items():
            if not fine:
                raise ConfigError(f"{name}={value} of the optimizer must be {needed}")


@dataclass(frozen=True)
class _Rule:
    operator: Operator
    state: tuple[str, ...]
    takes_step: bool
    attributes: tuple[str, ...]
    decay: bool


_RULES = {
    "sgd": _Rule(sgd, ("u",), False, ("momentum",), True),
    "adam": _Rule(adam, ("m", "v"), True, ("beta1", "beta2", "epsilon"), False),
    "adamw": _Rule(adamw, ("m", "v"), True, ("beta1", "beta2", "epsilon"), True),
}


@without_collector
def optimize(
    graph: Graph,
    optimizer: Optimizer | None = None,
    parameters: Sequence[str] | None = None,
    guarded: bool = False,
) -> Graph:
    """The graph with clipping, schedule and an update of each parameter added (of `parameters`, if given).

        dW = dMatmul(X, dY)                    dW = dMatmul(X, dY)
                                               lr = schedule(step)
                                               W.new, W.u.new = SGD(W, dW, W.u, lr)

    State `W.m`, `W.v` (Adam) or `W.u` (SGD) of the parameter's type starts at zero; the new values are
    `W.new`, `W.m.new`, …, and `Graph.updates` pairs them with the old. The step is the graph's input `step`,
    added if it is not there yet. The scalars `lr` and, with clipping, `norm` are outputs, too.
    With `guarded`, `norm` is always there, and a step with a gradient that is not finite leaves parameters and state as
    they were: so they may be overwritten, and what was wrong can still be looked for.
    Of a graph that `autodiff` gave a loss scale, the gradients are divided by it first; where it is dynamic, the step
    is guarded.
    Errors: ConfigError if a parameter has no gradient in the graph, if there is none to update, or the kind is unknown.
    """
    optimizer = optimizer or Optimizer()
    rule = _RULES.get(optimizer.kind)
    if rule is None:
        raise ConfigError(f"optimizer {optimizer.kind!r} is unknown; choose from {', '.join(_RULES)}")
    targets = list(graph.parameters) if parameters is None else [graph[name] for name in parameters]
    if not targets:
        raise ConfigError(f"graph {graph.name} is to be trained, but there is no parameter to update")
    builder, copies = Builder.extending(graph)
    builder.output(*(copies[value] for value in graph.outputs))
    gradients = [copies[_gradient_of(graph, target)] for target in targets]
    with builder.context(scope="optimizer", phase=UPDATE):
        step = copies[graph["step"]] if "step" in graph else builder.input("/step", dtype="int64")
        lr = _learning_rate(builder, optimizer.learning_rate, step)
        s = copies[graph[SCALE]] if SCALE in graph else None
        good = copies[graph[GOOD]] if GOOD in graph else None
        norm = None
        if optimizer.clip is not None or s is not None or guarded:
            limit = math.inf if optimizer.clip is None else optimizer.clip
            gradients, norm = _clip(builder, gradients, limit, s)
        ok = []
        if s is not None and good is not None and norm is not None:
            ok.append(_adjust(builder, optimizer, s, good, norm))
        elif guarded and norm is not None:
            ok.append(is_finite(norm, name="ok"))
    scalars = [*([step] if rule.takes_step else []), lr, *ok]
    for target, gradient in zip(targets, gradients, strict=True):
        with builder.context(scope=target.scope, phase=UPDATE, of=target.name, why=f"update of {target.name}"):
            _update(builder, optimizer, target, copies[target], gradient, scalars)
    return builder.build()


def _update(
    builder: Builder, optimizer: Optimizer, target: Value, parameter: Value, gradient: Value, scalars: Sequence[Value]
) -> None:
    """Adds the update of a parameter and its state; `scalars` are the operands that all updates share."""
    rule = _RULES[optimizer.kind]
    states = [_state(builder, target, name) for name in rule.state]
    attributes = {name: getattr(optimizer, name) for name in rule.attributes}
    if rule.decay:
        attributes["weight_decay"] = optimizer.weight_decay if optimizer.decays(parameter) else 0.0
    names = [f"/{target.name}.new", *(f"/{target.name}.{name}.new" for name in rule.state)]
    operands = [parameter, cast_to(gradient, parameter.dtype), *states, *scalars]
    builder.output(*rule.operator.all(*operands, names=names, **attributes))


def _gradient_of(graph: Graph, parameter: Value) -> Value:
    name = gradient_name(parameter.name)
    gradient = graph.result(name) if name in graph else None
    if gradient is None or gradient not in graph.producers or gradient.type.shape != parameter.type.shape:
        raise ConfigError(
            f"graph {graph.name} has no gradient {name} of {parameter.name}; differentiate it by autodiff, "
            f"or name the parameters to be updated by parameters=[…]"
        )
    return gradient


def _learning_rate(builder: Builder, rate: float | Schedule, step: Value) -> Value:
    plan = rate if isinstance(rate, Schedule) else Schedule(rate)
    lr = schedule(
        step, kind=plan.kind, peak=plan.peak, warmup=plan.warmup, total=plan.total, floor=plan.floor, name="lr"
    )
    builder.output(lr)
    return lr


def _clip(builder: Builder, gradients: Sequence[Value], limit: float, s: Value | None) -> tuple[list[Value], Value]:
    """The gradients, divided by a loss scale s and scaled so that their global norm is at most `limit`, and the norm.

    Only scalars meet: one factor does both, and one sum of squares a gradient tells as well whether it is finite.
    Each is named within its gradient's scope, so that layers which are alike have names that are.
    """
    wide, squares = widest(gradient.dtype for gradient in gradients), []
    for gradient in gradients:
        with builder.context(scope=gradient.scope, phase=UPDATE):
            squares.append(cast_to(square_sum(gradient), wide))
    total = add(*squares, name="norm2") if len(squares) > 1 else squares[0]
    read = [total] if s is None else [total, cast_to(s, wide)]
    factor, norm = clip_factor.all(*read, limit=limit, names=["clip", "norm"])
    builder.output(norm)
    divided = [] if s is None else ["divided by the loss scale"]
    why = ", ".join([*divided, *([f"gradients clipped to norm {limit}"] if limit < math.inf or s is None else [])])
    clipped, factors = [], {dtype: cast_to(factor, dtype) for dtype in dict.fromkeys(each.dtype for each in gradients)}
    for gradient in gradients:
        with builder.context(scope=gradient.scope, phase=UPDATE, why=why):
            clipped.append(rescale(gradient, factors[gradient.dtype], name=f"/{gradient.name}.clipped"))
    return clipped, norm


def _adjust(builder: Builder, optimizer: Optimizer, s: Value, good: Value, norm: Value) -> Value:
    """The next loss scale, as the norm has it; returns whether the step is good."""
    s_new, good_new, ok = adjust_scale.all(
        s,
        good,
        cast_to(norm, s.dtype),
        growth=optimizer.growth,
        backoff=optimizer.backoff,
        interval=optimizer.growth_interval,
        names=[f"/{SCALE}.new", f"/{GOOD}.new", "ok"],
    )
    builder.output(s_new, good_new)
    return ok


def _state(builder: Builder, target: Value, name: str) -> Value:
    """What the optimizer keeps of `target` under `name`: of its type, starting at zero, lying as it does."""
    return builder.state(f"/{target.name}.{name}", target.shape, target.dtype, "zeros", target.type.layout)
