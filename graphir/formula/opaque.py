"""What symbols do not answer, because arrays and numbers would answer otherwise: what type they are of, and such.

A kernel that asks `isinstance(X, np.ndarray)`, looks a dtype up in a table or prints a length would otherwise go on
with an answer that is true of symbols alone, and its formula would mean something else than the kernel.
"""

from __future__ import annotations

from typing import Any, ClassVar

from graphir.formula.terms import UntraceableError


class Opaque:
    """Raises UntraceableError whenever it is asked for what it is; `what` says how a kernel's author calls it."""

    what: ClassVar[str] = "an array"

    def __init_subclass__(cls) -> None:
        # Python takes the hash from a class that says what is equal, and a kernel could catch its TypeError.
        cls.__hash__ = cls._refuse  # type: ignore[assignment, method-assign]

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise UntraceableError(f"it asks what {self.what} is, or how it is written, which symbols answer otherwise")

    #: What `isinstance` asks for an object that is of none of the types by itself. Here, `type(X) is Traced` is asked.
    __class__ = property(_refuse)
    __eq__ = __ne__ = __repr__ = __str__ = __format__ = __hash__ = _refuse
    __len__ = __contains__ = __dir__ = __complex__ = __round__ = __reduce_ex__ = _refuse

    def __getattr__(self, name: str) -> Any:
        raise UntraceableError(f"it asks for {self.what}'s {name}")
