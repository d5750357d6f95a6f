"""Every CUDA text is compiled for the GPUs that are around, by NVRTC, which needs none of them."""

from __future__ import annotations

import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pytest

from tests.cuda.sources import all_sources

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
#: Generated kernels declare sizes by rule, of which a short one does not use all.
_OPTIONS = (b"-std=c++17", b"-ftz=true", b"--device-as-default-execution-space", b"-diag-suppress=177")
#: What differs from another text in a dtype or a width alone, or is generated: that asks for nothing of a device's own.
_VARIANTS = r"step float|.*, case|attention\w*\.cu (float64|float16|\w+ (16|128))"


def _has_nvrtc() -> bool:
    try:
        return importlib.util.find_spec("cuda.bindings.nvrtc") is not None
    except ModuleNotFoundError:
        return False


nvrtc = pytest.mark.skipif(not _has_nvrtc(), reason="cuda-bindings and nvidia-cuda-nvrtc are not installed")


def compiled(text: str, architecture: str) -> str:
    """What NVRTC says of a text; nothing if it is content."""
    from cuda.bindings import nvrtc as library

    _, program = library.nvrtcCreateProgram(text.encode(), b"kernel.cu", 0, [], [])
    options = [f"-arch={architecture}".encode(), *_OPTIONS]
    (done,) = library.nvrtcCompileProgram(program, len(options), options)
    _, size = library.nvrtcGetProgramLogSize(program)
    # NVRTC writes into it. One byte more than it needs: bytes of a length of 1 are Python's own, which all share.
    log = bytes(size + 1)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(program)
    said = log.decode().strip("\0 \n")
    return said if said or done == library.nvrtcResult.NVRTC_SUCCESS else str(done)


@lru_cache(maxsize=1)
def sources() -> dict[str, str]:
    return all_sources()


def chosen(architecture: str) -> dict[str, str]:
    """All texts for one architecture. For the others each source, but not each with every dtype and width of a head."""
    whole = architecture == ARCHITECTURES[1]
    return {name: text for name, text in sources().items() if whole or not re.match(_VARIANTS, name)}


@nvrtc
@pytest.mark.slow
def test_every_source_compiles_without_a_warning() -> None:
    texts = [(f"{name} for {each}", text, each) for each in ARCHITECTURES for name, text in chosen(each).items()]
    with ThreadPoolExecutor() as pool:
        logs = pool.map(lambda named: compiled(*named[1:]), texts)
    said = {name: log for (name, _, _), log in zip(texts, logs, strict=True) if log}
    assert not said, "\n\n".join(f"{name}\n{log}" for name, log in list(said.items())[:3])


@nvrtc
def test_what_is_wrong_is_said() -> None:
    assert "identifier" in compiled('extern "C" __global__ void run(float* x) { x[0] = y; }', "sm_90")
    assert "is used before its value is set" in compiled(
        'extern "C" __global__ void run(float* x) { float y; x[0] = y; }', "sm_90"
    )


@pytest.mark.slow
def test_sources_need_no_headers_that_would_have_to_be_found() -> None:
    assert len(sources()) > 100
    assert not [name for name, text in sources().items() if "#include" in text]
