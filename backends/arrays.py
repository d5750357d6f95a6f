"""Arrays wherever they lie: which module one belongs to, and how it is brought home into NumPy's memory.

Nothing here loads an array module beside NumPy: who has an array of another has loaded it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphir.backends.registry import BACKENDS, Backend


def module_of(array: Any) -> Any:
    """`xp`, the array module of `array`: that of its device's backend, or NumPy, as of bare numbers, too."""
    holder = holder_of(array)
    return np if holder is None else holder.array_module()


def holder_of(array: Any) -> Backend | None:
    """The backend on whose device `array` lies; None of what lies in this machine's memory, or is no array."""
    library = type(array).__module__.partition(".")[0]
    if library == "numpy" or not hasattr(array, "dtype"):
        return None
    return next((each for each in BACKENDS.values() if each.on_device and each.library == library), None)


def is_on_device(array: Any) -> bool:
    """Whether `array` lies in the memory of a GPU, or of another device that a backend computes on."""
    return holder_of(array) is not None


def to_numpy(array: Any) -> NDArray[Any]:
    """`array` as NumPy's: itself, or, of one on a GPU, a copy, as soon as everything that writes it is done."""
    result: NDArray[Any] = array.get() if is_on_device(array) else np.asarray(array)
    return result
