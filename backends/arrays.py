"""Arrays wherever they lie: which module one belongs to, and how it is brought home into NumPy's memory.

Nothing here loads an array module beside NumPy: who has an array of another has loaded it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray


def module_of(array: Any) -> Any:
    """`xp`, the array module of `array`: CuPy of one on a GPU, else NumPy, as of bare numbers."""
    return sys.modules["cupy"] if is_on_device(array) else np


def is_on_device(array: Any) -> bool:
    """Whether `array` lies in a GPU's memory."""
    return type(array).__module__.partition(".")[0] == "cupy" and hasattr(array, "dtype")


def to_numpy(array: Any) -> NDArray[Any]:
    """`array` as NumPy's: itself, or, of one on a GPU, a copy, as soon as everything that writes it is done."""
    result: NDArray[Any] = array.get() if is_on_device(array) else np.asarray(array)
    return result
