"""What is given away by `donate=True` has memory of its own, or is refused by name before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.backends.executable import Executable
from graphir.errors import InputError
from graphir.passes import Optimizer, autodiff, optimize
from tests.cuda import emulator, standin

SIZES = {"B": 4, "D": 160}
Arrays = dict[str, Any]


def step() -> gi.Graph:
    """L = mean (X V W)², an update of V and W of one shape, and a matrix that is not trained."""
    block = gi.Builder("pair")
    B, D = gi.dims("B D")
    X, fixed = block.input("X", (B, D)), block.parameter("A", (D, D))
    V, W = block.parameter("V", (D, D)), block.parameter("W", (D, D))
    Z = gi.matmul(gi.matmul(gi.matmul(X, fixed), V), W)
    L = gi.divide_by_count(gi.reduce_sum(gi.multiply(Z, Z)), gi.count_valid(block.input("Y", (B,), "int64")), name="L")
    return optimize(autodiff(block.build(L), wrt=["V", "W"]), Optimizer(kind="sgd", learning_rate=0.1), ["V", "W"])


GRAPH = step()


def arrays() -> Arrays:
    random = np.random.default_rng(0)
    made = {name: np.asarray(array) for name, array in gi.initialize(GRAPH, SIZES).items()}
    made |= {name: 0.05 * random.standard_normal((160, 160)).astype("float32") for name in ("A", "V", "W")}
    return {
        **made,
        "X": random.standard_normal((4, 160)).astype("float32"),
        "Y": np.zeros(4, "int64"),
        "step": np.asarray(0),
    }


def refused(given: Arrays) -> str:
    """What is said of it; nothing has been written."""
    before = {name: np.array(array) for name, array in given.items()}
    with pytest.raises(InputError) as caught:
        gi.compile(GRAPH, SIZES, donate=True)(given)
    assert all(np.array_equal(given[name], array) for name, array in before.items())
    return str(caught.value)


def halves(given: Arrays) -> None:
    """V and W one within the other's reach, with a few elements in common."""
    both = np.zeros(160 * 160 + 8, "float32")
    given["V"], given["W"] = both[: 160 * 160].reshape(160, 160), both[8:].reshape(160, 160)


def transposed(given: Arrays) -> None:
    given["W"] = given["V"].T


def woven(given: Arrays) -> None:
    """Every second column, and two of those."""
    both = np.zeros((160, 400), "float32")
    given["V"], given["W"] = both[:, 0:320:2], both[:, 4:324:2]


ALIASES: dict[str, Callable[[Arrays], None]] = {
    "one array": lambda given: given.update(W=given["V"]),
    "two views of one": lambda given: given.update(W=given["V"][:]),
    "the transpose": transposed,
    "overlapping": halves,
    "woven": woven,
}


@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES.keys())
def test_arrays_that_share_memory_are_refused(alias: Callable[[Arrays], None]) -> None:
    given = arrays()
    alias(given)
    assert refused(given) == (
        "V and W are both updated in place, but the arrays that are given for them share memory: one update would "
        "write over the other; give each an array of its own, or compile with donate=False"
    )


def test_so_are_small_ones() -> None:
    given, sizes = arrays(), {"B": 4, "D": 8}
    given |= {name: np.array(given[name][:8, :8]) for name in "AVW"} | {"X": given["X"][:, :8]}
    given |= {name: np.zeros(8 * 8, "float32").reshape(8, 8) for name in given if name.endswith(".u")}
    given["W"] = given["V"]
    with pytest.raises(InputError, match=r"^V and W are both updated in place"):
        gi.compile(GRAPH, sizes, donate=True)(given)


def test_what_is_only_read_must_not_lie_in_what_is_written() -> None:
    for name, array in (("A", lambda given: given["W"]), ("X", lambda given: given["W"][3:7])):
        given = arrays()
        given[name] = array(given)
        assert refused(given) == (
            f"W is updated in place, but the array that is given for it shares memory with that for {name}; give each "
            f"an array of its own, or compile with donate=False"
        )


def test_an_element_that_several_places_show_cannot_be_updated() -> None:
    given = arrays()
    given["W"] = np.lib.stride_tricks.as_strided(np.zeros(320, "float32"), (160, 160), (4, 4))
    assert refused(given).startswith(
        "W is updated in place, but in the array that is given for it, of shape [160, 160] and strides [4, 4], elements"
    )


def test_what_cannot_be_written_is_refused() -> None:
    given = arrays()
    given["W"] = np.broadcast_to(given["W"][0], (160, 160))
    assert "W is updated in place, but the array is read-only" in refused(given)


def test_neighbours_share_nothing() -> None:
    """Columns in turns, parts of one array, and what is only read twice: all as with copies."""
    given = arrays()
    wanted = gi.compile(GRAPH, SIZES)(given).updated()
    woven, both = np.zeros((160, 320), "float32"), np.zeros((2, 160, 160), "float32")
    for V, W in ((woven[:, ::2], woven[:, 1::2]), (both[0], both[1]), (both[1].T, both[0][::-1])):
        mine = {name: np.array(array) for name, array in given.items()} | {"V": V, "W": W}
        for name in "VW":
            mine[name][...] = given[name]
        after = gi.compile(GRAPH, SIZES, donate=True)(mine).updated()
        for name, array in wanted.items():
            np.testing.assert_allclose(after[name], array, rtol=1e-5, atol=1e-7, err_msg=name)
        assert all(np.shares_memory(after[name], mine[name]) for name in "VW")


def test_what_was_found_apart_is_looked_at_again_when_it_is_replaced() -> None:
    run, given = gi.compile(GRAPH, SIZES, donate=True), arrays()
    for _ in range(3):
        given |= run(given).updated()
    with pytest.raises(InputError, match=r"^V and W are both updated in place"):
        run({**given, "W": given["V"]})
    with pytest.raises(InputError, match="shares memory with that for X"):
        run({**given, "X": given["V"][:4]})
    assert np.isfinite(run(given)["L"])


def test_without_donating_arrays_may_share() -> None:
    given = arrays()
    given["W"] = given["A"] = given["V"]
    copies = {name: np.array(array) for name, array in given.items()}
    one, other = (gi.compile(GRAPH, SIZES)(each).updated() for each in (given, copies))
    assert all(np.array_equal(one[name], other[name]) for name in one)


# -- on a GPU, where state lies in the program's own buffers -------------------------------------------------


@pytest.fixture
def cupy() -> Iterator[Any]:
    if emulator.MISSING is not None:
        pytest.skip(str(emulator.MISSING))
    with standin.installed() as module:
        yield module


def on_device() -> Executable:
    return gi.compile(GRAPH, SIZES, donate=True, backend="cupy", check=False)


def test_a_gpu_refuses_the_same(cupy: Any) -> None:
    run, given = on_device(), arrays()
    state = {**given, **run(given).updated()}
    with pytest.raises(InputError, match=r"^V and W are both updated in place"):
        run({**state, "W": state["V"]})
    with pytest.raises(InputError, match=r"^V and W are both updated in place"):
        run({**given, "W": given["V"]})
    with pytest.raises(InputError, match=r"^V is updated in place, .* shares memory with that for X"):
        run({**state, "X": state["V"][:4]})
    woven = cupy.zeros((160, 320), "float32")
    assert np.isfinite(float(run({**state, "V": woven[:, ::2], "W": woven[:, 1::2]})["L"]))


def test_state_that_changes_places_is_not_written_before_it_is_read(cupy: Any) -> None:
    run, given = on_device(), arrays()
    wanted = gi.compile(GRAPH, SIZES, backend="reference")
    host, state = dict(given), {**given}
    for _ in range(4):
        result = run(state)
        host |= wanted(host).updated()
        state |= result.updated()
        for name in ("V", "W"):
            np.testing.assert_allclose(state[name].get(), host[name], rtol=1e-4, atol=1e-6, err_msg=name)
        for each in (host, state):
            each["V"], each["W"], each["V.u"], each["W.u"] = each["W"], each["V"], each["W.u"], each["V.u"]


def test_state_that_another_training_has_written_over_is_refused(cupy: Any) -> None:
    run, one, other = on_device(), arrays(), arrays()
    other["W"] = other["W"] + 1
    first = {**one, **run(one).updated()}
    second = {**other, **run(other).updated()}
    with pytest.raises(InputError) as caught:
        run(first)
    assert str(caught.value).endswith(
        "of an earlier run, and other content has been handed in for V since: with donate=True it was written over; go "
        "on from run.updated() of the latest run, and compile an executable for each training"
    )
    # Nothing of the second has been touched by that; and a view of what is lent is as good as it.
    alone = on_device()
    third = {**other, **alone(other).updated()}
    last, wanted = run({**second, "W": second["W"].reshape(160, 160)}), alone(third)
    assert all(np.array_equal(last.numpy(name), wanted.numpy(name)) for name in last)
