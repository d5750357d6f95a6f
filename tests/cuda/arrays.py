"""The stand-in's arrays: in the machine's own memory, and what they do NumPy does.

They are as strict as CuPy's where that counts: no array of NumPy's is taken for one of them, nor are they turned into
one unasked, and reductions give arrays []. New memory holds 0xCB in every byte, so that what was never written shows.
"""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.cuda.runtime import (
    STATE,
    Device,
    MemoryPointer,
    UnownedMemory,
    allocates,
    enqueue,
    refuse_cublas,
    refuse_transfer,
    transfers,
)


def _new(shape: Any, dtype: Any, order: str = "C") -> np.ndarray:
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"Unsupported dtype {kind}")
    found = np.empty(shape, kind, order)
    allocates(found.nbytes)
    # On CuPy's boundaries, whatever the machine's own allocator does.
    raw = np.full(found.nbytes + 512, 0xCB, np.uint8)
    start = -raw.ctypes.data % 512
    return np.ndarray(found.shape, kind, raw[start : start + max(found.nbytes, 1)], 0, found.strides)


class ndarray:  # noqa: N801
    """An array of the device."""

    __module__ = "cupy"
    __slots__ = ("__weakref__", "_host", "_memory", "base")
    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        shape: Any,
        dtype: Any = float,
        memptr: MemoryPointer | None = None,
        strides: Any = None,
        order: str = "C",
    ) -> None:
        self.base: ndarray | None = None
        if memptr is None:
            self._host = _new(shape, dtype, order)
            self._memory = UnownedMemory(self._host.__array_interface__["data"][0], self._host.nbytes, self._host)
            return
        shape, kind = (shape,) if isinstance(shape, int) else tuple(shape), np.dtype(dtype)
        if strides is None:
            strides = tuple(kind.itemsize * int(np.prod(shape[i + 1 :], dtype=int)) for i in range(len(shape)))
        reach = sum((length - 1) * step for length, step in zip(shape, strides, strict=True) if step > 0)
        lowest = sum((length - 1) * step for length, step in zip(shape, strides, strict=True) if step < 0)
        size = 0 if 0 in shape else reach - lowest + kind.itemsize
        raw = (ctypes.c_char * max(size, 1)).from_address(memptr.ptr + lowest)
        raw.keeps = self._memory = memptr.mem  # type: ignore[attr-defined]
        self._host = np.ndarray(shape, kind, raw, -lowest, strides)

    # -- what it is

    dtype = property(lambda self: self._host.dtype)
    shape = property(lambda self: self._host.shape)
    strides = property(lambda self: self._host.strides)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    itemsize = property(lambda self: self._host.itemsize)
    flags = property(lambda self: _Flags(self._host.flags))
    T = property(lambda self: _view(self, self._host.T))
    real = property(lambda self: self)

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._memory, self._host.__array_interface__["data"][0] - self._memory.ptr)

    @property
    def device(self) -> Any:
        return Device(0)

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return f"<stand-in {self.dtype}{list(self.shape)}>"

    # -- to and from the host

    def __array__(self, *arguments: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        transfers("get", "D2H")
        return self._host.copy(order)

    def set(self, source: Any, stream: Any = None) -> None:
        if not isinstance(source, np.ndarray) or source.dtype != self.dtype or source.shape != self.shape:
            raise ValueError(f"set() takes a NumPy array {self.dtype}{list(self.shape)}, not {source!r}")
        transfers("set", "H2D")
        self._host[...] = source

    def item(self, *place: int) -> Any:
        return self.get().item(*place)

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)

    def __int__(self) -> int:
        return int(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __bool__(self) -> bool:
        return bool(self.get())

    def __index__(self) -> int:
        return operator.index(self.get())

    def __format__(self, form: str) -> str:
        return format(self.get(), form)

    # -- parts of it

    def __getitem__(self, place: Any) -> Any:
        place = _index(place)
        return _wrap(self._host[place], (self,))

    def __setitem__(self, place: Any, source: Any) -> None:
        place, value = _index(place), _plain(source)

        def write() -> None:
            self._host[place] = value

        enqueue(write)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def copy(self, order: str = "C") -> ndarray:
        made = ndarray(self.shape, self.dtype, order=order)
        copyto(made, self)
        return made

    def fill(self, value: Any) -> None:
        enqueue(lambda: self._host.fill(_plain(value)))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *arguments: Any, **options: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return through(ufunc)(*arguments, **options)

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, options: Any) -> Any:
        return getattr(sys.modules["cupy"], function.__name__)(*arguments, **options)


class _Flags:
    """How an array lies; nothing can be set."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous, self.f_contiguous = bool(flags.c_contiguous), bool(flags.f_contiguous)
        self.forc = self.c_contiguous or self.f_contiguous

    @property
    def owndata(self) -> bool:
        raise NotImplementedError


def _view(base: ndarray, host: np.ndarray) -> ndarray:
    made = ndarray.__new__(ndarray)
    made._host, made._memory, made.base = host, base._memory, base if base.base is None else base.base
    return made


def _plain(argument: Any) -> Any:
    """What NumPy is given for an argument; an array of NumPy's own is none of the device's."""
    if isinstance(argument, ndarray):
        return argument._host
    if isinstance(argument, np.ndarray) and argument.ndim:
        raise TypeError(f"Unsupported type {type(argument)}")
    if isinstance(argument, list | tuple):
        return type(argument)(map(_plain, argument))
    return argument


def _index(place: Any) -> Any:
    if isinstance(place, tuple):
        return tuple(map(_index, place))
    if isinstance(place, ndarray):
        if place.dtype == bool:
            transfers("an index by a mask", "D2H")
        return place._host
    return place


def _arrays(arguments: Any) -> list[ndarray]:
    found = []
    for each in arguments:
        if isinstance(each, ndarray):
            found.append(each)
        elif isinstance(each, list | tuple):
            found += _arrays(each)
    return found


def _wrap(made: Any, operands: Any) -> Any:
    """What an operation gives: a view of an operand, or new memory."""
    if isinstance(made, tuple | list):
        return type(made)(_wrap(each, operands) for each in made)
    if not isinstance(made, np.ndarray | np.generic):
        return made
    if isinstance(made, np.ndarray):
        for operand in _arrays(operands):
            if made.size == 0 or np.may_share_memory(made, operand._host):
                return _view(operand, made)
    found = ndarray(np.shape(made), made.dtype)
    found._host[...] = made
    return found


# -- functions --------------------------------------------------------------------------------------------


def through(function: Callable[..., Any], first: Callable[[], None] | None = None) -> Callable[..., Any]:
    """NumPy's function on the device's arrays; `first` is called before it."""

    def call(*arguments: Any, out: Any = None, **options: Any) -> Any:
        if first is not None:
            first()
        operands = (*arguments, *options.values())
        plain, named = _plain(arguments), {name: _plain(each) for name, each in options.items()}
        if out is None:
            STATE.stream.work_off()
            with np.errstate(all="ignore"):
                return _wrap(function(*plain, **named), operands)
        target = out[0] if isinstance(out, tuple) else out

        def work() -> None:
            with np.errstate(all="ignore"):
                function(*plain, out=target._host, **named)

        enqueue(work)
        return target

    return call


class ufunc:  # noqa: N801
    """An elementwise function."""

    def __init__(self, function: np.ufunc) -> None:
        self._function = function
        self._call = through(function)
        self.__name__, self.nin, self.nout = function.__name__, function.nin, function.nout

    def __call__(self, *arguments: Any, out: Any = None, **options: Any) -> Any:
        if len(arguments) > self.nin:
            assert out is None
            assert self.nout == 1
            arguments, out = arguments[: self.nin], arguments[self.nin]
        return self._call(*arguments, out=out, **options)

    def at(self, target: ndarray, place: Any, source: Any = None) -> None:
        plain = _plain(source)
        enqueue(lambda: self._function.at(target._host, _index(place), plain))


#: Of NumPy's elementwise functions, those that CuPy lacks.
_LACKING = frozenset({"isnat", "matmul", "matvec", "spacing", "vecdot", "vecmat"})
UFUNCS = {name: ufunc(each) for name, each in vars(np).items() if isinstance(each, np.ufunc) and name not in _LACKING}


def asarray(array: Any, dtype: Any = None, order: Any = None, **options: Any) -> ndarray:
    if isinstance(array, ndarray) and dtype in (None, array.dtype):
        return array
    return _copy_of(array, dtype)


def array(array: Any, dtype: Any = None, copy: bool = True, **options: Any) -> ndarray:
    return _copy_of(array, dtype)


def _copy_of(source: Any, dtype: Any) -> ndarray:
    host = source._host if isinstance(source, ndarray) else np.asarray(source)
    made = ndarray(host.shape, host.dtype if dtype is None else dtype)
    if not isinstance(source, ndarray) and host.ndim:
        refuse_transfer("H2D")

    # A number alone is what a kernel writes.
    def write() -> None:
        made._host[...] = host

    enqueue(write)
    return made


def ascontiguousarray(source: ndarray, dtype: Any = None) -> ndarray:
    if dtype in (None, source.dtype) and source.flags.c_contiguous:
        return source
    return _copy_of(source, dtype)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order=order)


def copyto(target: ndarray, source: Any, casting: str = "same_kind", where: Any = None) -> None:
    if isinstance(source, np.ndarray) and source.size != 1:
        raise ValueError("non-scalar numpy.ndarray cannot be used for copyto")
    if not isinstance(target, ndarray):
        raise TypeError(f"Unsupported type {type(target)}")
    plain = source._host if isinstance(source, ndarray) else source
    mask = True if where is None else _plain(where)

    def work() -> None:
        with np.errstate(all="ignore"):
            np.copyto(target._host, plain, casting=casting, where=mask)

    enqueue(work)


def asnumpy(source: Any) -> Any:
    return source.get() if isinstance(source, ndarray) else np.asarray(source)


def may_share_memory(one: ndarray, other: ndarray) -> bool:
    return bool(np.may_share_memory(one._host, other._host))


def _method(name: str) -> Callable[..., Any]:
    def call(self: ndarray, *arguments: Any, **options: Any) -> Any:
        if name == "astype" and options.pop("copy", True) is False and np.dtype(arguments[0]) == self.dtype:
            return self
        first = refuse_cublas if name == "dot" else None
        made = through(lambda host, *rest, **named: getattr(host, name)(*rest, **named), first)(
            self, *arguments, **options
        )
        # `take` of NumPy would give a bare number of one element.
        return made if made is not None else self

    return call


_METHODS = (
    "astype reshape ravel transpose swapaxes squeeze view sum mean max min argmax argmin all any take repeat "
    "cumsum prod dot argsort argpartition flatten clip conj diagonal trace round std var"
)
for _name in _METHODS.split():
    setattr(ndarray, _name, _method(_name))
_nonzero = through(np.nonzero, partial(transfers, "nonzero", "D2H"))
setattr(ndarray, "nonzero", _nonzero)  # noqa: B010  a method that nobody declares


def _operator(does: Callable[..., Any], reflected: bool = False, inplace: bool = False) -> Callable[..., Any]:
    def call(self: ndarray, *others: Any) -> Any:
        operands = (*others, self) if reflected else (self, *others)
        return does(*operands, out=self) if inplace else does(*operands)

    return call


_BOTH_SIDES = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift", "matmul": "matmul",
}  # fmt: skip
_ONE_SIDE = {
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
    "neg": "negative", "abs": "absolute", "invert": "invert", "pos": "positive",
}  # fmt: skip
for _sign, _name in (_BOTH_SIDES | _ONE_SIDE).items():
    _does = through(getattr(np, _name), refuse_cublas if _name == "matmul" else None)
    setattr(ndarray, f"__{_sign}__", _operator(_does))
    if _sign in _BOTH_SIDES:
        setattr(ndarray, f"__r{_sign}__", _operator(_does, reflected=True))
        setattr(ndarray, f"__i{_sign}__", _operator(_does, inplace=True))
