"""The device functions that kernels call, over the emulator and on a real device, and the emulator itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphir.backends.cupy.text import included
from graphir.operators.special import erf, random_bits
from tests.cuda import emulator
from tests.cuda.harness import HostArray, HostEngine, where

__all__ = ["where"]

# -- functions --------------------------------------------------------------------------------------------

_ELEMENTWISE = """
extern "C" __global__ void run(const {0}* x, {1}* y, long long n) {{
    for (long long k = threadIdx.x; k < n; k += blockDim.x) y[k] = {2};
}}
"""


@pytest.fixture
def apply(where: str) -> Any:
    """`apply(x, dtype of the result, (type of x, type of y, y of x[k]))`."""

    def run(x: Any, dtype: Any, types: tuple[str, str, str]) -> Any:
        text = "".join(map(included, ("conversions", "functions"))) + _ELEMENTWISE.format(*types)
        if where == "emulated":
            y = np.empty(x.shape, dtype).view(HostArray)
            emulator.RawModule(code=text).get_function("run")((1,), (64,), (x.view(HostArray), y, np.int64(x.size)))
            return np.asarray(y)
        import cupy

        given, y = cupy.asarray(x), cupy.empty(x.shape, dtype)
        function = cupy.RawModule(code=text, options=("-std=c++17",)).get_function("run")
        function((1,), (64,), (given, y, np.int64(x.size)))
        return y.get()

    return run


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_16_bits_are_converted_as_numpy_does(name: str, apply: Any) -> None:
    kind = np.dtype(name)
    every = np.arange(1 << 16, dtype=np.uint16)
    wide = apply(every, "float32", (name, "float", "number(x[k])"))
    assert np.array_equal(wide, every.view(kind).astype("float32"), equal_nan=True)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32).view("float32")
    # Also halfway between two neighbours, where ties go to the even one.
    finite = wide[np.isfinite(wide)]
    x = np.concatenate([x, finite, (finite + np.float32(ml_dtypes.finfo(kind).eps / 2) * finite).astype("float32")])
    with np.errstate(over="ignore", invalid="ignore"):
        wanted = x.astype(kind)
    bits = apply(x, np.uint16, ("float", name, f"convert<{name}>(x[k])"))
    assert np.array_equal(bits.view(kind).astype("float32"), wanted.astype("float32"), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_and_normal_are_right_to_a_few_units(dtype: str, apply: Any) -> None:
    x = np.linspace(-80, 80, 20_001).astype(dtype)
    wide, eps, type_ = x.astype("float64"), np.finfo(dtype).eps, "float" if dtype == "float32" else "double"
    assert np.all(np.abs(apply(x, dtype, (type_, type_, "sigmoid(x[k])")) * (1 + np.exp(-wide)) - 1) < 4 * eps)
    normal = 0.5 * (1 + erf(np, wide * np.sqrt(0.5)))
    assert np.abs(apply(x, dtype, (type_, type_, "normal(x[k])")) - normal).max() < 2 * eps


@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
def test_draws_go_on_beyond_what_32_bits_count() -> None:
    text = (
        included("hash")
        + """
extern "C" __global__ void run(const long long* elements, unsigned short* drawn, long long seed) {
    Keys keys;
    write_keys(seed, 3, 11, &keys);
    const long long element = elements[threadIdx.x];
    drawn[threadIdx.x] = draw(keys, element);
    const Draws<4> four = draws<4>(keys, element & ~1ll);
    if (four.v[element & 1] != drawn[threadIdx.x]) drawn[threadIdx.x] = 0;
}
"""
    )
    elements = np.array([0, 1, 2, (1 << 33) - 1, 1 << 33, (1 << 33) + 5, (5 << 33) + 77, (1 << 40) + 3])
    bits = random_bits(np, elements >> 1, -9, 3, 11) >> ((elements & 1) << 4).astype("uint32")
    drawn = np.zeros(8, np.uint16).view(HostArray)
    run = emulator.RawModule(code=text).get_function("run")
    run((1,), (8,), (elements.view(HostArray), drawn, np.int64(-9)))
    assert np.array_equal(drawn, bits.astype(np.uint16))


# -- the emulator -----------------------------------------------------------------------------------------


@pytest.mark.skipif(emulator.MISSING is not None, reason=str(emulator.MISSING))
def test_the_emulator_tells_what_a_device_would_not_survive() -> None:
    module = emulator.RawModule(
        code="""
extern "C" __global__ void stuck() { if (threadIdx.x < 3) __syncthreads(); else __syncwarp(); }
extern "C" __global__ void takes(const float* x, long long n) {}
extern "C" __global__ void reads(const float* x, float* y, long long k) { y[threadIdx.x] = x[k]; }
struct alignas(16) Four { float v[4]; };
extern "C" __global__ void packs(float* x, long long k) { *(Four*)(x + k) = Four{{1, 2, 3, 4}}; }
extern "C" __global__ void shares(float* x, int k) {
    __shared__ float numbers[32];
    numbers[threadIdx.x + k] = 1;
    __syncthreads();
    x[threadIdx.x] = numbers[31];
}
extern "C" __global__ void counts(long long* n, int k) { *n = k + k; }
extern "C" __global__ void races(float* x) {
    __shared__ float last;
    last = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) x[blockIdx.x] = last;
}
"""
    )
    with pytest.raises(emulator.LaunchError, match="kernel stuck: some of its threads wait at a barrier that others"):
        module.get_function("stuck")((1,), (64,), ())
    takes, x = module.get_function("takes"), HostEngine().empty((4,), "float32")
    with pytest.raises(emulator.LaunchError, match="kernel takes: argument 1 has fewer bytes than its parameter"):
        takes((1,), (1,), (x, np.int32(4)))
    with pytest.raises(emulator.LaunchError, match="kernel takes: it does not take 1 arguments"):
        takes((1,), (1,), (x,))
    with pytest.raises(emulator.LaunchError, match="kernel takes: a grid has no blocks"):
        takes((0,), (1,), (x, np.int64(4)))
    with pytest.raises(TypeError, match="ndarray is nothing that a kernel takes"):
        takes((1,), (1,), (np.zeros(4), np.int64(4)))
    assert takes((1,), (1,), (SimpleNamespace(data=SimpleNamespace(ptr=0)), 4)) is None
    engine = HostEngine()
    x, y, n = engine.empty((8,), "float32"), engine.empty((64,), "float32"), engine.empty((), "int64")
    reads, packs = module.get_function("reads"), module.get_function("packs")
    reads((1,), (64,), (x, y, np.int64(7)))
    with pytest.raises(emulator.LaunchError, match="kernel reads: it reads or writes where there is no array"):
        reads((1,), (64,), (x, y, np.int64(8)))
    packs((1,), (1,), (x, np.int64(4)))
    with pytest.raises(emulator.LaunchError, match="packs: it reads or writes at an address that is no multiple of"):
        packs((1,), (1,), (x, np.int64(2)))
    shares, counts = module.get_function("shares"), module.get_function("counts")
    shares((1,), (8,), (x, np.int32(0)))
    assert np.isnan(x).all(), "shared memory that nobody has written to"
    with pytest.raises(emulator.LaunchError, match="shares: an index is beyond the end of an array in registers or sh"):
        shares((1,), (8,), (x, np.int32(25)))
    counts((1,), (1,), (n, np.int32((1 << 30) - 1)))
    with pytest.raises(emulator.LaunchError, match="kernel counts: an integer grows out of its type"):
        counts((1,), (1,), (n, np.int32(1 << 30)))
    module.get_function("races")((64,), (32,), (y,))
    assert len(np.unique(y)) > 1, "threads come in another order each time"
