"""Mixed precision as a pass: what is narrow, what is gathered, and what a bad step does to the loss scale."""

import numpy as np

import graphir as gi
from graphir.passes import Optimizer, autodiff, dce, mixed_precision, optimize, shard

SIZES = {"B": 8, "D_in": 4, "D_1": 16, "D_out": 2}


def main() -> None:
    # Products read float16; parameters, sums and everything else stay float32.
    forward = mixed_precision(gi.models.mlp(2), "float16")
    print(gi.to_text(forward, meta=False))

    # The backward pass starts from a loss scale that follows the gradients.
    joint = autodiff(forward, loss_scale=2.0**15, dynamic=True)
    step = optimize(joint, Optimizer(learning_rate=0.02, clip=1.0, growth_interval=20))
    sharded = shard(dce(step), gi.Mesh(dp=2), "zero3", SIZES)
    gathered = [node.inputs[0] for node in sharded.nodes if node.operator.key == "AG"]
    print("ZeRO-3 gathers", ", ".join(f"{value.name} {value.type}" for value in gathered), "\n")

    run, tensors = gi.compile(step, SIZES), gi.initialize(step, SIZES)
    rng = np.random.default_rng(0)
    for number in range(60):
        X = rng.standard_normal((8, 4)).astype(np.float32)
        inputs = {"X": X, "Target": X[:, :2] - X[:, 2:], "step": number}
        if number == 30:
            inputs["X"] = X * np.float32(1e6)  # beyond float16, which ends at 65504
        with np.errstate(over="ignore", invalid="ignore"):
            result = run(tensors, inputs)
        tensors = result.updated()
        if number % 10 == 9 or number == 30:
            skipped = "" if np.isfinite(result["optimizer/norm"]) else "  skipped: gradients are not finite"
            print(f"step {number:2}  L = {result['L']:<8.4f}  scale {tensors['loss_scale/scale']:g}{skipped}")


if __name__ == "__main__":
    main()
