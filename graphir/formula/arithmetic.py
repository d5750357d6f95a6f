"""Python's operators of an array, each as the operation of its name."""

from __future__ import annotations

from typing import Any, NoReturn

from graphir.formula.opaque import Opaque
from graphir.formula.terms import UntraceableError


class Arithmetic(Opaque):
    """An array's operators, all of them by `_with`."""

    def _with(self, operation: str, *operands: Any) -> Any:
        """The operation of these, of which it is one itself."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Any:
        return self._with("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._with("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._with("subtract", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("subtract", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._with("multiply", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("multiply", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._with("divide", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with("divide", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._with("power", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._with("power", other, self)

    def __mod__(self, other: Any) -> Any:
        return self._with("remainder", self, other)

    def __rmod__(self, other: Any) -> Any:
        return self._with("remainder", other, self)

    def __neg__(self) -> Any:
        return self._with("negative", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._with("absolute", self)

    def __lt__(self, other: Any) -> Any:
        return self._with("less", self, other)

    def __le__(self, other: Any) -> Any:
        return self._with("less_equal", self, other)

    def __gt__(self, other: Any) -> Any:
        return self._with("less", other, self)

    def __ge__(self, other: Any) -> Any:
        return self._with("less_equal", other, self)

    def __eq__(self, other: object) -> Any:
        return self._with("equal", self, other)

    def __ne__(self, other: object) -> Any:
        return self._with("not_equal", self, other)

    def __and__(self, other: Any) -> Any:
        return self._with("logical_and", self, other)

    __rand__ = __and__

    def __or__(self, other: Any) -> Any:
        return self._with("logical_or", self, other)

    __ror__ = __or__

    def __invert__(self) -> Any:
        return self._with("logical_not", self)

    # -- what no formula does -------------------------------------------------------------------------

    def _none(self, *_: Any) -> NoReturn:
        raise UntraceableError("it computes with //, ^, @ or another operator that no formula has")

    # Raised here, for a kernel may try one thing, and another where Python says that there is no such operator.
    __floordiv__ = __rfloordiv__ = __divmod__ = __rdivmod__ = __xor__ = __rxor__ = __matmul__ = __rmatmul__ = _none
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _none

    def _in_place(self, other: Any) -> NoReturn:
        # Another name of the same array would have to change with it.
        raise UntraceableError("it changes an array in place; say Y = Y + X for Y += X")

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __ipow__ = __imod__ = _in_place
    __iand__ = __ior__ = __ixor__ = __imatmul__ = __ilshift__ = __irshift__ = _in_place

    def __bool__(self) -> bool:
        raise UntraceableError("what it does depends on a number that is known at run time only")

    def __int__(self) -> int:
        raise UntraceableError("it makes a Python number of an array's element")

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __iter__(self) -> Any:
        raise UntraceableError("it goes through an array's elements one by one")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise UntraceableError("it writes into an array in place")
