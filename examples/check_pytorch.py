r"""Where does a tensor-parallel PyTorch program go wrong? Its own tensors, rank by rank, against the graph.

An MLP is split over two ranks as Megatron does: W_up by columns, W_down by rows, the results of the second summed. Its
backward pass needs a sum, too: each rank's gradient of X comes through its own columns of W_up, and only their sum is
dX. Here that all-reduce is forgotten. The loss is right, the gradients of both weights are right, and whatever lies
before this block trains on half a gradient.

With PyTorch at hand, its tensors are made on the spot; without it, those in examples/data/pytorch_tp2 are taken, which
`python examples/check_pytorch.py --record` made in the same way. The command line says the same of these files:

    graphir check examples/check_pytorch.py:block --tp 2 --dump examples/data/pytorch_tp2/forgotten \
        --map examples/data/pytorch_tp2/names.json
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import graphir as gi
from graphir.checking import assign, check_dump, infer_sizes, read_dump, read_rules
from graphir.ir.layout import Mesh
from graphir.passes import autodiff, shard

RECORDED = Path(__file__).parent / "data/pytorch_tp2"
RANKS = 2

#: What the PyTorch program calls its tensors. It keeps weights as [out, in].
RULES = read_rules(RECORDED / "names.json")


def block() -> gi.Graph:
    """L = Σ (GL(X • W_up) • W_down) ⊙ Target, differentiated; X, Target [B, S, D], hidden [B, S, D_ff]."""
    B, S, D, F = gi.dims("B S D D_ff")
    mlp = gi.Builder("mlp")
    X, target = mlp.input("X", (B, S, D)), mlp.input("Target", (B, S, D))
    Z_up = gi.matmul(X, mlp.parameter("W_up", (D, F)), name="Z_up")
    A_up = gi.activation(Z_up, kind="gelu_tanh", name="A_up")
    Z_down = gi.matmul(A_up, mlp.parameter("W_down", (F, D)), name="Z_down")
    L = gi.reduce_sum(gi.multiply(Z_down, target, name="weighted"), name="L")
    return autodiff(mlp.build(L), wrt=["X", "W_up", "W_down"])


def pytorch_tensors(forgotten: bool) -> list[dict[str, np.ndarray]]:
    """Each rank's tensors of the program in PyTorch, its two ranks emulated in one process."""
    import torch

    draw = torch.Generator().manual_seed(0)
    X, target = (torch.randn(2, 4, 6, generator=draw) for _ in range(2))
    up, down = torch.randn(8, 6, generator=draw), torch.randn(6, 8, generator=draw)
    inputs = [X.clone().requires_grad_() for _ in range(RANKS)]
    ups = [part.clone().requires_grad_() for part in up.chunk(RANKS, dim=0)]
    downs = [part.clone().requires_grad_() for part in down.chunk(RANKS, dim=1)]
    hidden = [torch.nn.functional.gelu(x @ w.T, approximate="tanh") for x, w in zip(inputs, ups, strict=True)]
    partial = [h @ w.T for h, w in zip(hidden, downs, strict=True)]
    output = torch.stack(partial).sum(dim=0)
    loss = (output * target).sum()
    loss.backward()
    gradients = [x.grad for x in inputs]
    if not forgotten:
        gradients = [torch.stack(gradients).sum(dim=0)] * RANKS
    ranks = []
    for rank in range(RANKS):
        tensors = {
            "input": X, "target": target, "up.weight": ups[rank], "down.weight": downs[rank],
            "hidden": hidden[rank], "partial": partial[rank], "output": output, "loss": loss,
            "up.weight.grad": ups[rank].grad, "down.weight.grad": downs[rank].grad, "input.grad": gradients[rank],
        }  # fmt: skip
        ranks.append({name: np.array(tensor.detach().numpy(), order="C") for name, tensor in tensors.items()})
    return ranks


def dump(folder: Path, forgotten: bool) -> Path:
    """Writes rank0.safetensors, rank1.safetensors: what a line in a training script would do on each rank."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank, tensors in enumerate(pytorch_tensors(forgotten)):
        save_file(tensors, folder / f"rank{rank}.safetensors")
    return folder


def examine(folder: Path) -> str:
    """The report on the dump in `folder`."""
    single = block()
    parallel = shard(single, Mesh(tp=RANKS), "megatron")
    tensors = assign(read_dump(folder, parallel.mesh), parallel, RULES)
    return check_dump(single, parallel, infer_sizes(tensors, parallel, {}), tensors).text()


def main() -> None:
    if "--record" in sys.argv:
        for name in ("right", "forgotten"):
            dump(RECORDED / name, name == "forgotten")
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("right", "forgotten"):
            live = find_spec("torch") is not None
            folder = dump(Path(scratch) / name, name == "forgotten") if live else RECORDED / name
            print(f"all-reduce of the input's gradient: {name} ({'live' if live else 'recorded'})")
            print(examine(folder), end="\n\n")


if __name__ == "__main__":
    main()
