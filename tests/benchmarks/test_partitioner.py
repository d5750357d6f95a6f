"""The judge of plans: collectives as they are read from HLO, and a plan beside what XLA's partitioner makes of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from benchmarks.hlo import Collective, collectives, group_size, split_names
from benchmarks.partitioner import OURS, TOLD, XLA, Judge, node_name, report
from benchmarks.plans_table import PLANS
from benchmarks.verdicts import VERDICTS

SIZES = {"B": 4, "S": 8, "D": 16, "N_H": 4, "D_ff": 32, "V": 16}

#: Two sums in one, the second of which is only sliced, within a fusion; a gather without a name; all other kinds.
PROGRAM = """HloModule jit_run, num_partitions=4

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (param_0: f64[8,4], param_1: s32[]) -> f64[2,4] {
  %param_0 = f64[8,4]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f64[2,4]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={2,4}
}

ENTRY %main (a: f32[4,4], b: f64[8,4], i: s32[]) -> (f32[4,4], f64[2,4]) {
  %a = f32[4,4]{1,0} parameter(0)
  %b = f64[8,4]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %sums = (f32[4,4], f64[8,4]) all-reduce(%a, %b), replica_groups=[1,4]<=[4], metadata={op_name="jit(f)/a/(W/dot:b)"}
  %first = f32[4,4]{1,0} get-tuple-element(%sums), index=0
  %second = f64[8,4]{1,0} get-tuple-element(%sums), index=1
  %slice = f64[2,4]{1,0} fusion(%second, %i), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/a/b.new"}
  %gather = f64[4,4]{1,0} all-gather(%slice), replica_groups=mesh['dp'=2,'tp'=2] {'tp'}, dimensions={0}
  %scatter = f32[2,4]{1,0} reduce-scatter(%first), replica_groups={{0,1},{2,3}}, dimensions={0}, to_apply=%add
  %exchange = f32[2,4]{1,0} all-to-all(%scatter), replica_groups={{0,1},{2,3}}, dimensions={0}
  %moved = f32[2,4]{1,0} collective-permute(%exchange), source_target_pairs={{0,1},{1,0}}
  ROOT %made = (f32[4,4]{1,0}, f64[2,4]{1,0}) tuple(%first, %slice)
}
"""


def test_what_a_program_sends() -> None:
    assert collectives(PROGRAM) == [
        Collective("all-reduce", 4, Fraction(3, 2) * 64, "jit(f)/a/W/dot"),
        Collective("all-reduce", 4, Fraction(3, 2) * 256, "jit(f)/a/b", sliced=True),
        Collective("all-gather", 2, Fraction(64), "jit(f)/a/b.new"),
        Collective("reduce-scatter", 2, Fraction(32), "jit(f)/a/W/dot"),
        Collective("all-to-all", 2, Fraction(16), "jit(f)/a/W/dot"),
        Collective("collective-permute", 1, Fraction(32), "jit(f)/a/W/dot"),
    ]


def test_what_runs_nobody_knows_how_often_is_not_counted() -> None:
    with pytest.raises(ValueError, match="in another computation"):
        collectives(PROGRAM.replace("ROOT %sum = f32[] add(%x, %y)", "ROOT %sum = f32[] all-reduce(%x)"))
    with pytest.raises(ValueError, match="asynchronous"):
        collectives(PROGRAM.replace("all-gather(", "all-gather-start("))


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("replica_groups={{0,2,4},{1,3,5}}", 3),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 4),
        ("replica_groups=mesh['dp'=2,'tp'=3], device_ids=([2,3]T(1,0)) {'dp','tp'}", 6),
        ("replica_groups=mesh['x'=8] {'x':(2)4}", 4),
    ],
)
def test_how_many_share_a_collective(text: str, ranks: int) -> None:
    assert group_size(text) == ranks


def test_a_group_that_is_not_told() -> None:
    with pytest.raises(ValueError, match="no group in"):
        group_size("replica_groups={}, to_apply=%add")


def test_names() -> None:
    assert split_names("jit(run)/a/b") == ["jit(run)/a/b"]
    assert node_name("jit(run)/shard_map/layer0/mha/dH.RS/psum", {"dH": 0, "layer0/mha/dH.RS": 0}) == "layer0/mha/dH.RS"
    assert node_name("jit(run)/add", {"dH": 0}) == ""


def test_every_plan_has_a_verdict() -> None:
    assert set(VERDICTS) == set(PLANS)


@pytest.mark.slow
def test_a_program_of_xlas_own() -> None:
    from tests.support.xla import jax

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("tp",))
    whole, rows = (jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*each)) for each in ((), ("tp",)))
    multiply: Any = jax.jit(lambda X, W: X.T @ W, in_shardings=(rows, rows), out_shardings=whole)
    kinds = [jax.ShapeDtypeStruct((4, width), np.float32) for width in (6, 5)]
    (found,) = collectives(multiply.lower(*kinds).compile().as_text())
    assert (found.kind, found.ranks, found.bytes) == ("all-reduce", 2, 6 * 5 * 4)
    assert found.name.endswith("dot_general")


@pytest.mark.slow
def test_a_plan_is_judged() -> None:
    import tests.support.xla  # noqa: F401 - skips, or asks for devices

    found = Judge("sequence", "tp=2", SIZES, layers=1).compare()
    ours, theirs, told = (found.programs[who] for who in (OURS, XLA, TOLD))
    assert ours.sent.kinds["RS"] == found.stated.kinds["RS"] == 4
    assert ours.sent.bytes <= found.stated.bytes  # what is gathered twice, XLA may gather once
    assert ours.sent.bytes < theirs.sent.bytes < told.sent.bytes
    assert found.single / 2 <= ours.flops < 1.1 * found.single / 2
    lines = report([found], "JAX").splitlines()
    assert lines[-1].startswith("- **sequence**: ")
    assert sum(line.startswith("| ") for line in lines) == 5
