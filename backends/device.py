"""The GPU, by way of CuPy, which is loaded here and nowhere else, when it is asked for.

Nothing in this module says anything before it is called: `import graphir` never loads CuPy.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from graphir.errors import DeviceError, MissingDependencyError
from graphir.extras import install

#: The first CuPy that looks for cuBLAS where pip installs it, and that knows bfloat16.
_OLDEST = 14
_INSTALL = (
    f'{install("cuda12")}, or, where the driver has CUDA 13, {install("cuda13")}; or compile with backend="numpy"'
)


def load_cupy() -> Any:
    """The module `cupy`. Errors: MissingDependencyError, with what to install, where there is none, or one too old."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cupy"
        why = "is not installed" if missing else f"cannot be loaded ({str(error).strip().splitlines()[0]})"
        raise MissingDependencyError(f'backend="cupy" was asked for, and CuPy {why}: {_INSTALL}') from None
    if int(cupy.__version__.partition(".")[0]) < _OLDEST:
        raise MissingDependencyError(
            f'backend="cupy" was asked for, and CuPy {cupy.__version__} is older than {_OLDEST}: {_INSTALL}'
        )
    return cupy


def require_device() -> Any:
    """The module `cupy`, on a machine that has a GPU.

    Errors: MissingDependencyError as `load_cupy`; DeviceError, in one sentence, where no GPU can be used.
    """
    cupy = load_cupy()
    runtime = cupy.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise DeviceError(_no_device(f"CUDA says {error}")) from None
    if count == 0:
        raise DeviceError(_no_device("CUDA finds no device"))
    return cupy


def _no_device(why: str) -> str:
    return f'backend="cupy" needs an NVIDIA GPU and its driver, and {why}; use backend="numpy" to run without'


@dataclass(frozen=True)
class DeviceProperties:
    """What is known of a GPU.

    capability       (major, minor), as in sm_90
    multiprocessors  how many there are
    memory           bytes in all
    driver, runtime  CUDA's versions, 13000 for 13.0
    """

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory: int
    driver: int
    runtime: int
    cupy: str

    def __str__(self) -> str:
        major, minor = self.capability
        return (
            f"{self.name}, sm_{major}{minor}, {self.multiprocessors} multiprocessors, {self.memory / 2**30:.0f} GiB, "
            f"CUDA {_version(self.runtime)}, driver for {_version(self.driver)}, CuPy {self.cupy}"
        )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def device_properties() -> DeviceProperties:
    """Of the current device. Errors: as `require_device`."""
    cupy = require_device()
    runtime = cupy.cuda.runtime
    found = runtime.getDeviceProperties(runtime.getDevice())
    name = found["name"]
    return DeviceProperties(
        name.decode() if isinstance(name, bytes) else name,
        (found["major"], found["minor"]),
        found["multiProcessorCount"],
        found["totalGlobalMem"],
        runtime.driverGetVersion(),
        runtime.runtimeGetVersion(),
        cupy.__version__,
    )


def free_memory() -> int:
    """Bytes that the current device could still give, those that CuPy holds and does not use among them."""
    cupy = load_cupy()
    free, _ = cupy.cuda.runtime.memGetInfo()
    return int(free) + int(cupy.get_default_memory_pool().free_bytes())


def spelled(count: float) -> str:
    """Bytes, for people."""
    unit, name = next((each for each in ((1e9, "GB"), (1e6, "MB")) if count >= each[0] / 10), (1e3, "kB"))
    return f"{count / unit:.1f} {name}"
