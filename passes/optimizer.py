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
from graphir.ir.value import Value, gradient_name
from graphir.operators.elementwise import add
from graphir.operators.update import adam, adamw, clip_factor, rescale, schedule, sgd, square_sum


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
    """Which update, with which constants. `clip` limits the global norm of all gradients, if given."""

    kind: str = "adamw"
    learning_rate: float | Schedule = 1e-3
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    clip: float | None = None

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
def optimize(graph: Graph, optimizer: Optimizer | None = None, parameters: Sequence[str] | None = None) -> Graph:
    """The graph with clipping, schedule and an update of each parameter added (of `parameters`, if given).

    State `W.m`, `W.v` (Adam) or `W.u` (SGD) of the parameter's type starts at zero; the new values are
    `W.new`, `W.m.new`, …, and `Graph.updates` pairs them with the old. The step is the graph's input `step`,
    added if it is not there yet. The scalars `lr` and, with clipping, `norm` are outputs, too.
    Errors: ConfigError if a parameter has no gradient in the graph, or the kind is unknown.
    """
    optimizer = optimizer or Optimizer()
    rule = _RULES.get(optimizer.kind)
    if rule is None:
        raise ConfigError(f"optimizer {optimizer.kind!r} is unknown; choose from {', '.join(_RULES)}")
    targets = list(graph.parameters) if parameters is None else [graph[name] for name in parameters]
    builder, copies = Builder.extending(graph)
    builder.output(*(copies[value] for value in graph.outputs))
    gradients = [copies[_gradient_of(graph, target)] for target in targets]
    with builder.context(scope="optimizer", phase=UPDATE):
        step = copies[graph["step"]] if "step" in graph else builder.input("/step", dtype="int64")
        lr = _learning_rate(builder, optimizer.learning_rate, step)
        if optimizer.clip is not None:
            gradients = _clip(builder, gradients, optimizer.clip)
    for target, gradient in zip(targets, gradients, strict=True):
        parameter = copies[target]
        with builder.context(scope=target.scope, phase=UPDATE, of=target.name, why=f"update of {target.name}"):
            states = [_state(builder, target, name) for name in rule.state]
            attributes = {name: getattr(optimizer, name) for name in rule.attributes}
            if rule.decay:
                attributes["weight_decay"] = optimizer.weight_decay if optimizer.decays(parameter) else 0.0
            operands = [parameter, gradient, *states, *([step] if rule.takes_step else []), lr]
            names = [f"/{target.name}.new", *(f"/{target.name}.{name}.new" for name in rule.state)]
            builder.output(*rule.operator.all(*operands, names=names, **attributes))
    return builder.build()


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


def _clip(builder: Builder, gradients: Sequence[Value], limit: float) -> list[Value]:
    """The gradients scaled so that their global norm is at most `limit`: only scalars meet."""
    squares = [square_sum(gradient) for gradient in gradients]
    total = add(*squares, name="norm2") if len(squares) > 1 else squares[0]
    factor, norm = clip_factor.all(total, limit=limit, names=["clip", "norm"])
    builder.output(norm)
    clipped = []
    for gradient in gradients:
        with builder.context(scope=gradient.scope, phase=UPDATE, why=f"gradients clipped to norm {limit}"):
            clipped.append(rescale(gradient, factor, name=f"/{gradient.name}.clipped"))
    return clipped


def _state(builder: Builder, target: Value, name: str) -> Value:
    """What the optimizer keeps of `target` under `name`: of its type, starting at zero, lying as it does."""
    return builder.state(f"/{target.name}.{name}", target.shape, target.dtype, "zeros", target.type.layout)
