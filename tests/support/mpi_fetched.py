"""What a rank does in the test of what is fetched: values alone, in pairs, and with what collectives make of them.

mpiexec -n 2 python -m tests.support.mpi_fetched
"""

from __future__ import annotations

import numpy as np
import pytest

import graphir as gi
from graphir.backends.communicator import communicator_for
from graphir.errors import InputError
from tests.backends.test_fetched import PLANS, SIZES, arguments, expected, sharded_step


def compare(plan: str) -> None:
    """Some of the values, each also beside the loss, and each collective's result beside its operand."""
    local = sharded_step(plan)
    moved = [[node.inputs[0].name, node.name] for node in local.nodes if node.operator.relayout is not None]
    for names in [*([name] for name in list(local.values)[::9]), *moved[::4], *([*pair, "L"] for pair in moved[1::4])]:
        run = gi.compile(local, SIZES, ranks="mpi", fetch=names)(arguments())
        for name in names:
            value = local.result(name)
            if value.type.layout.pending:
                continue  # each rank's own term, which no rank can tell from the whole
            wanted = expected().get(local.origin(value).name)
            if wanted is not None and np.asarray(wanted).dtype.kind != "O":
                np.testing.assert_allclose(run.gather(name), wanted, rtol=1e-9, atol=1e-12, err_msg=name)
        with pytest.raises(InputError, match="did not return"):
            run.updated()


def main() -> None:
    two = {plan: mesh for plan, mesh in PLANS.items() if mesh.size == 2}
    for plan in two:
        compare(plan)
    if communicator_for(next(iter(two.values())), "mpi").leads:
        print("alike")


if __name__ == "__main__":
    main()
