"""PyTorch's decoding with a cache, as a process of its own.

    python -m benchmarks.contestants.torch_decode FOLDER THREADS

A line of token ids is a prompt, answered by the token that follows; an empty line is one more token, answered by its
seconds and what follows. Needs torch and transformers, and nothing of graphir.
"""

from __future__ import annotations

import sys
import time


def main(folder: str, threads: str) -> None:
    """Answers lines until there are no more."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    ids, cache = torch.zeros((1, 0), dtype=torch.int64), None
    with torch.inference_mode():
        for line in sys.stdin:
            if line.strip():
                ids, cache = torch.tensor([[int(each) for each in line.split()]]), None
            begun = time.perf_counter()
            out = model(ids, past_key_values=cache, use_cache=True)
            ids, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            print(time.perf_counter() - begun, int(ids), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
