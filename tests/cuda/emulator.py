"""RawModule and RawKernel of the stand-in for CuPy: CUDA sources compiled as host C++, and run on host memory.

The sources are the real ones; `emulator.hpp` gives them CUDA. What g++ makes of them is kept in a temporary folder, by
the hash of the text, from one run of the tests to the next.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

_HEADER = Path(__file__).with_name("emulator.hpp")
# Where it is there: it links a kernel in half the time.
_GOLD = ("-fuse-ld=gold",) if shutil.which("ld.gold") else ()
_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-w", "-U_FORTIFY_SOURCE", "-fno-strict-aliasing", *_GOLD)
#: The header has what these checks call.
_CHECKS = ("-fsanitize=alignment,bounds,signed-integer-overflow",)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(")
_DYNAMIC = re.compile(r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;")
#: The reason for which tests that need it are skipped; None where it is there.
MISSING = None if shutil.which("g++") else "g++ is not installed, and kernels are emulated with it"

_LAUNCH = """
extern "C" int {symbol}(
    void** arguments, const int* bytes, int number, const unsigned int* grid, const unsigned int* block, size_t shared
) {{
    return emulated::launch({kernel}, arguments, bytes, number, grid, block, shared);
}}
"""


#: Held by who runs a kernel: its threads and blocks are in static variables, and ranks may be threads.
_DEVICE = threading.Lock()


class LaunchError(RuntimeError):
    """A launch that a GPU would refuse, or never end."""


def _at_once(work: Callable[[], None]) -> None:
    work()


class Function:
    """A kernel: `function(grid, block, arguments)`, as CuPy's."""

    def __init__(self, name: str, launch: Any, enqueue: Callable[[Callable[[], None]], None]) -> None:
        self.name, self._launch, self._enqueue = name, launch, enqueue
        self.max_dynamic_shared_size_bytes = 0

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0, stream: Any = None
    ) -> None:
        """Launches; arguments are read now, and the work is done when its turn comes."""
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("CuPy takes grid and block as tuples")
        values = [_packed(each) for each in args]
        pointers = (ctypes.c_void_p * len(values))(*(each.ctypes.data for each in values))
        sizes = (ctypes.c_int * len(values))(*(each.nbytes for each in values))
        dims = [(ctypes.c_uint * 3)(*each, *(1,) * (3 - len(each))) for each in (grid, block)]

        def work() -> None:
            with _DEVICE:
                found = self._launch(pointers, sizes, len(values), *dims, ctypes.c_size_t(shared_mem))
            if found:
                raise LaunchError(_reason(self.name, found, len(values)))

        # The arrays that the pointers lie in, and those that arguments point to, have to live as long.
        work.held = values, args  # type: ignore[attr-defined]
        self._enqueue(work)


def _reason(name: str, found: int, number: int) -> str:
    known = {
        -1: "some of its threads wait at a barrier that others never reach",
        -2: f"it does not take {number} arguments",
        -3: "a block has more than 1024 threads",
        -4: "it reads or writes where there is no array",
        -5: "it reads or writes at an address that is no multiple of what its type asks for",
        -6: "an index is beyond the end of an array in registers or shared memory",
        -7: "an integer grows out of its type",
        -8: "a grid has no blocks",
    }
    return f"kernel {name}: {known.get(found, f'argument {found - 1} has fewer bytes than its parameter')}"


#: What CuPy makes of Python's own numbers.
_PYTHONS: dict[type, type] = {bool: np.bool_, int: np.int64, float: np.float64}


def _packed(argument: Any) -> np.ndarray[Any, Any]:
    """An argument's bytes, as CuPy packs it: an array's address, a number of NumPy's as it is, or `_PYTHONS`."""
    if hasattr(argument, "data") and hasattr(argument.data, "ptr"):
        return np.array([argument.data.ptr], np.uint64)
    if isinstance(argument, np.generic):
        return np.array([argument])
    if type(argument) in _PYTHONS:
        return np.array([argument], _PYTHONS[type(argument)])
    raise TypeError(f"{type(argument).__name__} is nothing that a kernel takes")


class RawModule:
    """As `cupy.RawModule`, of one text. `enqueue` is given the work of each launch: the current stream."""

    enqueue: ClassVar[Callable[[Callable[[], None]], None]] = staticmethod(_at_once)

    def __init__(
        self,
        *,
        code: str,
        options: Sequence[str] = (),
        backend: str = "nvrtc",
        name_expressions: Sequence[str] | None = None,
        jitify: bool = False,
    ) -> None:
        if not isinstance(options, tuple):
            raise TypeError("CuPy takes options as a tuple")
        # CuPy writes the text to a file, in the encoding of whatever locale it is run in.
        code.encode("ascii")
        self.code = code
        self._expressions = list(name_expressions or ())
        self._library: Any = None

    def compile(self, log_stream: Any = None) -> None:
        """Builds the library, once."""
        if self._library is None:
            self._library = ctypes.CDLL(str(_built(self.code, self._expressions)))

    def get_function(self, name: str) -> Function:
        """The kernel of that name, or of that name expression."""
        self.compile()
        symbol = f"expression_{self._expressions.index(name)}" if name in self._expressions else f"launch_{name}"
        return Function(name, getattr(self._library, symbol), type(self).enqueue)


class RawKernel:
    """As `cupy.RawKernel`."""

    module: ClassVar[type[RawModule]] = RawModule

    def __init__(self, code: str, name: str, options: Sequence[str] = (), **others: Any) -> None:
        self._function = self.module(code=code, options=options).get_function(name)
        self.name = name

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], **others: Any) -> None:
        """Launches."""
        self._function(grid, block, args, **others)


def _built(code: str, expressions: Sequence[str]) -> Path:
    """The library of a text."""
    plain = re.sub(r"#include <cuda_\w+\.h>", "", code)
    plain = _DYNAMIC.sub(r"\1* const \2 = reinterpret_cast<\1*>(emulated::dynamic_shared);", plain)
    # Without a name of their own outside, templates may have static variables in a section that is chosen for them.
    text = f'#include "{_header()}"\nnamespace {{\n{plain}\n}}\n'
    for name in () if expressions else dict.fromkeys(_KERNEL.findall(code)):
        text += _LAUNCH.format(symbol=f"launch_{name}", kernel=name)
    for i, expression in enumerate(expressions):
        text += _LAUNCH.format(symbol=f"expression_{i}", kernel=expression)

    def make(made: Path) -> None:
        source = made.with_suffix(".cpp")
        source.write_text(text)
        done = _compile("-shared", source, "-o", made)
        if done.returncode:
            raise SyntaxError(f"g++ does not compile this kernel:\n{done.stderr}")

    return _kept(f"{_digest(text)}.so", make)


@cache
def _header() -> Path:
    """The header, compiled ahead: by itself it takes g++ most of the time that a kernel does."""
    text = _HEADER.read_text()
    found = _kept(f"{_digest(text)}.hpp", lambda made: made.write_text(text))
    # Whatever is no GCC may be content with the text.
    _kept(f"{found.name}.gch", lambda made: _compile("-x", "c++-header", found, "-o", made))
    return found


def _compile(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["g++", *_FLAGS, *_CHECKS, *map(str, arguments)], capture_output=True, text=True)


def _digest(text: str) -> str:
    return hashlib.sha256(" ".join((*_FLAGS, *_CHECKS, text)).encode()).hexdigest()[:24]


def _kept(name: str, make: Callable[[Path], object]) -> Path:
    """The file of that name, kept from run to run; where it is not there, `make` writes it, and it appears whole."""
    folder = Path(tempfile.gettempdir()) / f"graphir-emulated-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / name
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch, name)
            make(made)
            if made.exists():
                os.replace(made, kept)
    return kept
