"""Models that others have trained: Hugging Face folders, read and written, and GGUF files, read.

from graphir.hub import open_model

model = open_model("SmolLM2-135M-Instruct")      # nothing of the weights is read yet
model.blueprint                                  # what it is: a composition with its sizes
model.weights["layer0/mha/W_Q"]                  # a view of the file, [D, N_H·D_h]
model.tokenizer, model.chat                      # how it takes and makes text

formats, keys, rotation, config    what config.json says, a table a family; a field that is not understood is refused
formats, names                     what tensors are called and how they lie in files, in the same tables
shards, weights                    safetensors, mapped: who looks at a part of a tensor reads that part of the file
folder                             a folder read and written
gguf, vocabulary                   llama.cpp's files, their tokenizers
chat, template                     conversations, by the model's own template, in a process of its own
pretrained                         all of that as one object
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from graphir.errors import ModelFileError
from graphir.hub.folder import read_folder, write_folder
from graphir.hub.gguf import read_gguf
from graphir.hub.pretrained import Pretrained, Speech, of_arrays
from graphir.models import FAMILIES, PRESETS


def open_model(where: str | PathLike[str]) -> Pretrained:
    """The model in a Hugging Face folder, or in a .gguf file; see `read_folder` and `read_gguf` for errors."""
    path = Path(where)
    if path.is_dir():
        return read_folder(path)
    if path.suffix == ".gguf" and path.is_file():
        return read_gguf(path)
    if str(where) in (*PRESETS, *FAMILIES):
        raise ModelFileError(f"{where} by its name alone has no weights; give the folder or the .gguf file with them")
    raise ModelFileError(f"{path} is neither a folder with a model nor a .gguf file")


__all__ = ["Pretrained", "Speech", "of_arrays", "open_model", "write_folder"]
