"""XLA by its own client: programs of StableHLO, compiled and executed as they are. Knows nothing of graphir.

    python xla_client.py PROGRAM.mlirbc BLOCKS.npz RESULTS.npz RANKS

`BLOCKS` has the arguments of each rank in their order, `0/0`, `0/1`, …, `1/0`, …; so has `RESULTS` the results.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def execute(program: str | bytes, arguments: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The results of each rank, of whose arguments there is a list for each rank."""
    import jax
    from jax.extend import backend
    from jaxlib import xla_client

    client, ranks = backend.get_backend("cpu"), len(arguments)
    devices = client.local_devices()[:ranks]
    options = backend.get_compile_options(
        num_replicas=ranks, num_partitions=1, device_assignment=np.arange(ranks).reshape(ranks, 1)
    )
    made = client.compile_and_load(program, xla_client.DeviceList(tuple(devices)), options)
    line = jax.sharding.Mesh(np.array(devices), ("rank",))
    sharded = []
    for blocks in zip(*arguments, strict=True):
        # What differs from rank to rank need not be parts of one array: a dim more says which rank's it is.
        here = [jax.device_put(block, device) for block, device in zip(blocks, devices, strict=True)]
        shape = blocks[0].shape
        over = jax.sharding.PartitionSpec("rank") if shape else jax.sharding.PartitionSpec()
        whole = (ranks * shape[0], *shape[1:]) if shape else ()
        sharded.append(jax.make_array_from_single_device_arrays(whole, jax.sharding.NamedSharding(line, over), here))
    results = made.execute_sharded(sharded).disassemble_into_single_device_arrays()
    return [[np.asarray(blocks[rank]) for blocks in results] for rank in range(ranks)]


def main(program: str, blocks: str, results: str, ranks: str) -> None:
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={ranks}"
    import jax

    jax.config.update("jax_enable_x64", True)
    held = np.load(blocks)
    count = len(held.files) // int(ranks)
    arguments = [[held[f"{rank}/{i}"] for i in range(count)] for rank in range(int(ranks))]
    made = execute(_portable(Path(program).read_bytes()), arguments)
    assert "graphir" not in sys.modules
    np.savez(results, **{f"{rank}/{i}": array for rank, row in enumerate(made) for i, array in enumerate(row)})


def _portable(program: bytes) -> Any:
    """A program of the portable artifact, as this XLA has it."""
    from jax.extend.mlir import deserialize_portable_artifact
    from jax.interpreters import mlir

    made = deserialize_portable_artifact(program, mlir.make_ir_context())
    return made if isinstance(made, str | bytes) else made.operation.get_asm()


if __name__ == "__main__":
    main(*sys.argv[1:])
