"""Values: the named, typed edges of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from graphir.errors import TypeCheckError
from graphir.ir.frozen import Frozen, fix
from graphir.ir.source import user_line
from graphir.ir.types import Shape, TensorType

if TYPE_CHECKING:
    from graphir.ir.operator import Operator


class Emitter(Protocol):
    """What can put a node into a graph under construction: a `Builder`."""

    def emit(
        self,
        operator: Operator,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any] | None = None,
        names: Sequence[str | None] | str | None = None,
    ) -> tuple[Value, ...]:
        """Adds a node and returns its outputs."""

    def free_name(self, base: str) -> str:
        """A full name that nothing has yet, made from the full name `base`."""


def _refused(sign: str, function: str, reflected: bool = False) -> Callable[[Value, object], NoReturn]:
    """What Python's `sign` between values does: it tells the function that is meant."""

    def refuse(self: Value, other: object) -> NoReturn:
        first, second = (other, self) if reflected else (self, other)
        spelled = f" {sign} ".join(each.name if isinstance(each, Value) else repr(each) for each in (first, second))
        line = user_line()
        at = f" at {line}" if line else ""
        raise TypeCheckError(f"{spelled}{at}: values take no Python signs; use {function}")

    return refuse


class Value(Frozen):
    """An edge: what a node produces, or a graph takes in. Its identity is its name, `layer3/mha/W_Q`.

    `init` says how a parameter or a state starts (`normal(0.02)`, `zeros`, `ones`, `full(65536)`); None for all else.
    Immutable. `owner` is the builder that made it, which the operators' functions hand the next node to.
    """

    __slots__ = ("init", "name", "owner", "type")

    name: str
    type: TensorType
    owner: Emitter
    init: str | None

    def __init__(self, name: str, type: TensorType, owner: Emitter, init: str | None = None) -> None:
        fix(self, "name", name)
        fix(self, "type", type)
        fix(self, "owner", owner)
        fix(self, "init", init)

    @property
    def scope(self) -> str:
        """`layer3/mha` of `layer3/mha/W_Q`; '' at the top."""
        return self.name.rpartition("/")[0]

    @property
    def local_name(self) -> str:
        """`W_Q` of `layer3/mha/W_Q`."""
        return self.name.rpartition("/")[2]

    @property
    def shape(self) -> Shape:
        """The type's dims."""
        return self.type.shape

    @property
    def dtype(self) -> str:
        """The type's dtype."""
        return self.type.dtype

    __add__ = _refused("+", "gi.add")
    __radd__ = _refused("+", "gi.add", reflected=True)
    __sub__ = _refused("-", "gi.add with gi.scale(…, by=-1.0)")
    __rsub__ = _refused("-", "gi.add with gi.scale(…, by=-1.0)", reflected=True)
    __mul__ = _refused("*", "gi.multiply, or gi.scale for a number")
    __rmul__ = _refused("*", "gi.multiply, or gi.scale for a number", reflected=True)
    __truediv__ = _refused("/", "gi.scale for a number, or gi.divide_by_count")
    __matmul__ = _refused("@", "gi.matmul")

    def __repr__(self) -> str:
        return f"{self.name}: {self.type}"


def join(scope: str, name: str) -> str:
    """The full name of `name` in `scope`; a leading slash means a full name already."""
    if name.startswith("/"):
        return name[1:]
    return f"{scope}/{name}" if scope else name


def gradient_name(name: str) -> str:
    """The full name of the gradient of the value called `name`: `layer0/mha/dW_Q` of `layer0/mha/W_Q`."""
    scope, _, local = name.rpartition("/")
    return join(scope, f"d{local}")


def require_value(value: object) -> Value:
    """`value` itself if it is one; TypeCheckError, with what to do, if it is an array or anything else."""
    if not isinstance(value, Value):
        raise TypeCheckError(f"{value!r} is no graph value; make it an input of the graph")
    return value
