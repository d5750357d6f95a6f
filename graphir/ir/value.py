"""Values: the named, typed edges of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from graphir.errors import TypeCheckError
from graphir.ir.frozen import Frozen, fix
from graphir.ir.source import user_line
from graphir.ir.types import Shape, TensorType

#: What a node is made of. Operators take values, and so are declared above them.
OperatorT = TypeVar("OperatorT", contravariant=True)


class Emitter(Protocol[OperatorT]):
    """What can put a node of an operator into a graph under construction: a `Builder`."""

    def emit(
        self,
        operator: OperatorT,
        inputs: Sequence[Value],
        attributes: Mapping[str, Any] | None = None,
        names: Sequence[str | None] | str | None = None,
    ) -> tuple[Value, ...]:
        """Adds a node and returns its outputs."""

    def free_name(self, base: str) -> str:
        """A full name that nothing has yet, made from the full name `base`."""


#: What stands for a function of an array library, by its name there.
_FUNCTIONS = {
    "exp": "gi.exponential",
    "add": "gi.add",
    "subtract": "gi.add with gi.scale(…, by=-1.0)",
    "multiply": "gi.multiply, or gi.scale for a number",
    "divide": "gi.scale for a number, or gi.divide_by_count",
    "negative": "gi.scale(…, by=-1.0)",
    "square": "gi.multiply of the value with itself",
    "matmul": "gi.matmul",
    "dot": "gi.matmul",
    "einsum": "gi.matmul",
    "tanh": 'gi.activation(…, kind="gelu_tanh"), or an operator of your own',
    "maximum": 'gi.activation(…, kind="relu"), or an operator of your own',
    "sum": "gi.reduce_sum",
    "add.reduce": "gi.reduce_sum",
    "mean": "gi.reduce_sum and gi.scale",
    "argmax": "gi.argmax",
    "reshape": "gi.reshape",
    "transpose": "gi.transpose",
    "swapaxes": "gi.transpose",
    "concatenate": "gi.concatenate",
    "broadcast_to": "gi.broadcast",
    "where": "gi.scale_mask, or an operator of your own",
    "astype": "gi.cast",
}
#: What the names of parameters end with that are held as files have them.
_STORED = ".stored"
_OWN = "an operator of your own, @gi.operator"
_NO_NUMBERS = "a value has a type and no numbers before the graph is run: gi.compile(graph, sizes)(arrays) has them"


#: The same of what only methods and attributes are called.
_METHODS = {
    "T": "gi.transpose",
    "mT": "gi.transpose",
    "t": "gi.transpose",
    "permute": "gi.transpose",
    "view": "gi.reshape",
    "mm": "gi.matmul",
    "softmax": "gi.softmax",
    "relu": 'gi.activation(…, kind="relu")',
    "expand": "gi.broadcast",
    "to": "gi.cast",
    "numpy": "gi.compile(graph, sizes)(arrays), which has the numbers",
    "item": "gi.compile(graph, sizes)(arrays), which has the numbers",
    "detach": "autodiff(graph, wrt=[…]), which names what has gradients",
    "backward": "graphir.passes.autodiff(graph), which adds the gradients to the graph",
}


def _refuse(spelled: str, why: str) -> NoReturn:
    """TypeCheckError that names what was tried, the user's line, and what is meant."""
    line = user_line()
    raise TypeCheckError(f"{spelled}{f' at {line}' if line else ''}: {why}")


def _shown(each: object) -> str:
    return each.name if isinstance(each, Value) else repr(each)


def _refused(sign: str, function: str, reflected: bool = False) -> Callable[[Value, object], NoReturn]:
    """What Python's `sign` between values does: it tells the function that is meant."""

    def refuse(self: Value, other: object) -> NoReturn:
        first, second = (other, self) if reflected else (self, other)
        _refuse(f"{_shown(first)} {sign} {_shown(second)}", f"values take no Python signs; use {function}")

    return refuse


def _without_numbers(spelled: str, why: str = _NO_NUMBERS) -> Callable[..., NoReturn]:
    """What Python does with `spelled`, in which {} is the value, of which there are no numbers yet."""

    def refuse(self: Value, *_: object) -> NoReturn:
        _refuse(spelled.format(self.name), why)

    return refuse


class Value(Frozen):
    """An edge: what a node produces, or a graph takes in. Its identity is its name, `layer3/mha/W_Q`.

    `init` says how a parameter or a state starts (`normal(0.02)`, `zeros`, `ones`, `full(65536)`); None for all else.
    Immutable. `owner` is the builder that made it, which the operators' functions hand the next node to.
    """

    __slots__ = ("init", "name", "owner", "type")

    name: str
    type: TensorType
    owner: Emitter[Any]
    init: str | None

    def __init__(self, name: str, type: TensorType, owner: Emitter[Any], init: str | None = None) -> None:
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
    __rtruediv__ = _refused("/", _OWN, reflected=True)
    __pow__ = _refused("**", f"gi.multiply for a square, or {_OWN}")
    __rpow__ = _refused("**", f"gi.exponential, or {_OWN}", reflected=True)
    __matmul__ = _refused("@", "gi.matmul")
    __rmatmul__ = _refused("@", "gi.matmul", reflected=True)
    __lt__ = _refused("<", f"gi.scale_mask, or {_OWN}")
    __le__ = _refused("<=", f"gi.scale_mask, or {_OWN}")
    __gt__ = _refused(">", f"gi.scale_mask, or {_OWN}")
    __ge__ = _refused(">=", f"gi.scale_mask, or {_OWN}")
    __neg__ = _without_numbers("-{}", "values take no Python signs; use gi.scale(…, by=-1.0)")
    __abs__ = _without_numbers("abs({})", f"values take no functions of Python's; use {_OWN}")

    __bool__ = _without_numbers("bool({})")
    __float__ = _without_numbers("float({})")
    __int__ = _without_numbers("int({})")
    __len__ = _without_numbers("len({})", "a value has dims and no numbers; its shape is .shape, of named dims")
    __iter__ = _without_numbers("iter({})", "a value is no sequence; what is taken apart is so by gi.reshape")
    __getitem__ = _without_numbers("{}[…]", f"a value is not indexed; use gi.lookup for rows by ids, or {_OWN}")
    __contains__ = _without_numbers("… in {}")
    __array__ = _without_numbers("numpy.asarray({})")

    def __array_ufunc__(self, function: Any, method: str, *inputs: object, **options: object) -> NoReturn:
        """What a ufunc of NumPy's does, and so an array's sign before a value: np.exp(X), array + X."""
        self._refuse_function(function.__name__ if method == "__call__" else f"{function.__name__}.{method}", inputs)

    def __array_function__(self, function: Any, types: object, inputs: Sequence[Any], options: object) -> NoReturn:
        """What any other function of NumPy's does: np.concatenate([X, Y])."""
        self._refuse_function(function.__name__, inputs)

    def _refuse_function(self, name: str, inputs: Sequence[object]) -> NoReturn:
        shown = ", ".join(each.name if isinstance(each, Value) else type(each).__name__ for each in inputs)
        meant = _FUNCTIONS.get(name, _OWN)
        _refuse(f"numpy.{name}({shown})", f"NumPy's functions are for arrays, and a value is a graph's; use {meant}")

    if not TYPE_CHECKING:  # to which a class that has this has whatever is asked for

        def __getattr__(self, name: str) -> NoReturn:
            """What arrays and tensors have, and values have not: X.sum(), X.T; it is told which function is meant."""
            if name in Value.__slots__:  # of a value that is not made yet
                raise AttributeError(name)
            meant = _METHODS.get(name, _FUNCTIONS.get(name))
            why = f"use {meant}" if meant else "a value has a name, a type, a shape and a dtype"
            raise AttributeError(f"value {self.name} has no .{name}; {why}")

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


def stored_name(name: str) -> str:
    """What a parameter is called that is held as a file has it: `layer0/mha/W_Q.stored` of `layer0/mha/W_Q`."""
    return f"{name}{_STORED}"


def of_stored(name: str) -> str | None:
    """Of a parameter that is held as a file has it, what it is called otherwise; None of any other."""
    return name.removesuffix(_STORED) if name.endswith(_STORED) else None


def require_value(value: object) -> Value:
    """`value` itself if it is one; TypeCheckError, with what to do, if it is an array or anything else."""
    if not isinstance(value, Value):
        raise TypeCheckError(f"{value!r} is no graph value; make it an input of the graph")
    return value
