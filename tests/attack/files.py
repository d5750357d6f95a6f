"""Checkpoints, metrics, tokenizers and locks that were damaged, or forged: read, and then used.

Damage to bytes has to be noticed, or to change nothing. What is forged says what cannot be, and has the checksum that
belongs to it; whatever of it can be read is generated from, and gone on with, by the command line.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from graphir.cli import main
from graphir.errors import CheckpointError, GraphirError
from graphir.options import Option
from graphir.tokenizer import FileTokenizer
from graphir.training import Checkpoint, TrainConfig, load_checkpoint, train
from graphir.training.checkpoint import checksum, list_checkpoints
from graphir.training.lock import Holder
from graphir.training.metrics import MetricsFile, draw_loss, read_metrics
from tests.attack.damage import damage_bytes, damage_json, deep
from tests.attack.outcome import AttackError, HangError, LossError, RawError, bounded, limited
from tests.attack.training import is_raw, new_folder, workshop

#: Seconds that one file may take to be refused, or used.
_PATIENCE = 60.0
#: Bytes that all of this process may take; none of these files has a right to more.
_MEMORY = 8 << 30
_MODEL = TrainConfig(
    layers=1, sequence=8, width=8, heads=2, batch=2, steps=3, validation=0.2, validate_batches=1, checkpoint_every=2
)
Said = dict[str, Any]


def files(seed: int) -> Iterator[tuple[str, str]]:
    """Damaged files, a kind drawn for each."""
    rng = random.Random(seed)
    weights = {kind: weight for kind, weight in _KINDS.items() if kind is not _tokenizer or find_spec("tokenizers")}
    with bounded(_MEMORY):
        while True:
            (kind,) = rng.choices(list(weights), list(weights.values()))
            yield kind(rng)


@cache
def _original() -> Path:
    """The folder of a small run; nobody writes into it."""
    folder = workshop() / "original"
    train(dataclasses.replace(_MODEL, text=(str(workshop() / "text"),)), folder)
    return folder


def _checkpoint() -> Path:
    return list_checkpoints(_original())[-1][1]


def _copy() -> Path:
    """A copy of the run, to be damaged."""
    folder = new_folder("copy")
    shutil.copytree(_original(), folder, dirs_exist_ok=True)
    return folder


@contextmanager
def _watched(target: str, seen: Callable[[], str]) -> Iterator[None]:
    """RawError for whatever is raised that is none of graphir's own; HangError beyond all patience."""
    try:
        with limited(target, _PATIENCE, ""):
            yield
    except GraphirError:
        raise
    except BaseException as error:
        if isinstance(error, AttackError | KeyboardInterrupt | GeneratorExit):
            raise
        raise RawError(target, f"{type(error).__name__}: {error}; {seen()}") from error


# -- damage to bytes ------------------------------------------------------------------------------------------


def _bytes(rng: random.Random) -> tuple[str, str]:
    """A checkpoint, or its header alone, with other bytes."""
    path = workshop() / "damaged.safetensors"
    content = _checkpoint().read_bytes()
    if rng.random() < 0.5:
        damaged = damage_bytes(rng, content)
    else:
        end = 8 + int.from_bytes(content[:8], "little")
        damaged = damage_bytes(rng, content[:end]) + content[end:]
    path.write_bytes(damaged)
    return "checkpoints, bytes", _read_damaged("checkpoints, bytes", path)


def _read_damaged(target: str, path: Path) -> str:
    """What comes of reading a checkpoint that is no longer what was written: it is refused, or nothing was lost."""
    with _watched(target, lambda: _kept(path)):
        try:
            loaded = load_checkpoint(path)
        except CheckpointError as error:
            return _refusal(error)
    if not _same(loaded, load_checkpoint(_checkpoint())):
        raise LossError(target, f"read as something else, and not noticed; {_kept(path)}")
    return "read as it was"


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    said = [dataclasses.replace(each, path=Path(), arrays={}) for each in (one, other)]
    tensors = [{name: (a.dtype, a.shape, a.tobytes()) for name, a in each.arrays.items()} for each in (one, other)]
    return said[0] == said[1] and tensors[0] == tensors[1]


def _header(rng: random.Random) -> tuple[str, str]:
    """A checkpoint whose tensors are otherwise described than they are."""
    content = _checkpoint().read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    about = header.pop("__metadata__")
    damaged = damage_json(rng, header)
    if isinstance(damaged, dict):
        name = rng.choice(list(damaged) or ["x"])
        if rng.random() < 0.3 and isinstance(damaged.get(name), dict):
            damaged[name] = {**damaged[name], "dtype": rng.choice(("F8_E4M3", "F4", "BF16", "U8", "C64", "F16", "F64"))}
        damaged = {"__metadata__": about, **damaged}
    written = _dumped(damaged)
    path = workshop() / "header.safetensors"
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[end:])
    return "checkpoints, headers", _read_damaged("checkpoints, headers", path)


# -- forgeries ------------------------------------------------------------------------------------------------


def _forged(rng: random.Random) -> tuple[str, str]:
    """A checkpoint that says otherwise, with the right checksum; used where it can be read."""
    folder = _copy()
    path = list_checkpoints(folder)[-1][1]
    saved = load_checkpoint(path)
    arrays, said = dict(saved.arrays), _said(path)
    for _ in range(rng.choice((1, 1, 2))):
        if rng.random() < 0.3:
            _forge_tensors(rng, arrays)
        elif rng.random() < 0.8 and isinstance(said, dict) and isinstance(said.get("config"), dict):
            damage = _extreme if rng.random() < 0.5 else damage_json
            said = {**said, "config": damage(rng, said["config"])}
            said = _consistent(said) if rng.random() < 0.8 else said
        else:
            said = damage_json(rng, said)
    _write(rng, path, arrays, said)
    target = "checkpoints, forged"
    with _watched(target, lambda: _kept(path)):
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            return target, _refusal(error)
        command = ["generate", "--tokens", 3, folder]
        if rng.random() < 0.3:
            command = ["train", "--resume", "--steps", 4, "--quiet", "--out", folder]
        return target, f"read; {command[0]}{_by_command(target, command)}"


def _said(path: Path) -> Said:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    said: Said = json.loads(header["__metadata__"]["graphir"])
    return said


def _consistent(said: Said) -> Said:
    """With the sizes that its configuration asks for, where it is one."""
    try:
        config = TrainConfig.from_dict(said["config"], "a forgery")
        return {**said, "sizes": config.sizes(said["sizes"]["V"])}
    except (GraphirError, KeyError, TypeError):
        return said


def _extreme(rng: random.Random, config: Said) -> Said:
    """With an option at an end of what it may be, or anywhere in between."""
    each = rng.choice(dataclasses.fields(TrainConfig))
    limits: Option = each.metadata["option"]
    if limits.choices:
        return {**config, each.name: rng.choice(limits.choices)}
    if isinstance(each.default, bool):
        return {**config, each.name: rng.random() < 0.5}
    if isinstance(each.default, float):
        most = 1.0 if limits.below is None else limits.below - 1e-9
        return {**config, each.name: rng.choice((limits.least or 1e-300, most, rng.random() * most, most * 1e30))}
    if isinstance(each.default, int | None) and each.name != "plan":
        return {**config, each.name: rng.choice((0, 1, 2, 3, 7, 100, 10**4, 10**6, 10**9, 2**40, 2**53 - 1, None))}
    return {**config, each.name: rng.choice(("sequence", "data+zero3", "vocabulary", "single", "bytes", "words", None))}


def _forge_tensors(rng: random.Random, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    name = rng.choice(list(arrays))
    array = arrays[name]
    match rng.randrange(7):
        case 0:
            del arrays[name]
        case 1:
            arrays[f"{name}\x1b[31m"] = array
        case 2:
            arrays[name] = array.astype(rng.choice((np.float16, np.float64, np.int8, np.bool_, np.complex64)))
        case 3:
            arrays[name] = array.reshape(-1)[: rng.randrange(1, array.size + 1)]
        case 4:
            arrays[name] = np.zeros(rng.choice(((), (0,), (1, 0, 3), (1,) * 40, (7,))), array.dtype)
        case 5:
            arrays[name] = np.full_like(array, rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45)))
        case 6:
            arrays[name] = arrays[rng.choice(list(arrays))]


def _write(rng: random.Random, path: Path, arrays: dict[str, np.ndarray[Any, Any]], said: Any) -> None:
    if isinstance(said, dict):
        covered = {name: each for name, each in said.items() if name != "checksum"}
        said["checksum"] = checksum(arrays, covered if said.get("format") != 1 else None)
    text = deep() if rng.random() < 0.01 else _dumped(said).decode()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, {"graphir": text})


def _by_command(target: str, words: list[object]) -> str:
    """What the command line comes to, in this process: RawError unless it is its end or a sentence."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    if HangError.__name__ in err.getvalue():  # the command has told it as any other defect
        raise HangError(target, f"{words} does not end; {_kept(Path(str(words[-1])))}")
    if code not in (0, 2) or is_raw(err.getvalue()) or "out of memory" in err.getvalue():
        raise RawError(target, f"{words} ends with {code}: {err.getvalue()[-500:]}; {_kept(Path(str(words[-1])))}")
    return "s" if code == 0 else " refuses"


# -- metrics, tokenizers, locks -------------------------------------------------------------------------------


def _metrics(rng: random.Random) -> tuple[str, str]:
    path = workshop() / "metrics.jsonl"
    content = (_original() / "metrics.jsonl").read_bytes()
    lines = content.splitlines()
    if rng.random() < 0.3:
        damaged = damage_bytes(rng, content)
    else:
        at = rng.randrange(len(lines))
        line = deep().encode() if rng.random() < 0.02 else _dumped(damage_json(rng, json.loads(lines[at])))
        damaged = b"\n".join([*lines[:at], line, *lines[at + 1 :], b""])
    path.write_bytes(damaged)
    target = "metrics"
    with _watched(target, lambda: _kept(path)):
        file = MetricsFile(path, step=rng.choice((1, 3, 10**6)))
        file.append({"step": 10**7, "loss": 2.0})
        file.close()
        records = read_metrics(path)
        if records[-1]["step"] != 10**7:
            raise LossError(target, f"what was added is not there; {_kept(path)}")
        if rng.random() < 0.02:
            draw_loss(records, workshop() / "loss.png", "damaged")
    return target, f"read, {'with' if file.broken else 'without'} lines that are none"


@cache
def _tokenizers() -> list[bytes]:
    """Files of tokenizers of three kinds, each with a part of every sort."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = ["?", "the", "cat", "sat", "on", "mat", "and", "rat", ",", "."]
    letters = {letter: index for index, letter in enumerate("?thecasonmdr ,.")}
    pairs = [("t", "h"), ("th", "e"), ("c", "a")]
    made = [
        Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?")),
        Tokenizer(models.BPE({**letters, "th": 20, "the": 21, "ca": 22}, pairs, unk_token="?")),
        Tokenizer(models.Unigram([(word, -1.0 - index) for index, word in enumerate(words)], unk_id=0)),
    ]
    for tokenizer in made:
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("z", "s")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
        tokenizer.post_processor = processors.TemplateProcessing("$A <end>", None, [("<end>", 30)])
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.add_special_tokens(["<end>"])
        tokenizer.enable_truncation(64)
        tokenizer.enable_padding(length=4)
    return [tokenizer.to_str().encode() for tokenizer in made]


def _tokenizer(rng: random.Random) -> tuple[str, str]:
    path = workshop() / "tokenizer.json"
    content = rng.choice(_tokenizers())
    damaged = damage_bytes(rng, content) if rng.random() < 0.3 else _dumped(damage_json(rng, json.loads(content)))
    path.write_bytes(deep().encode() if rng.random() < 0.01 else damaged)
    target = "tokenizers"
    with _watched(target, lambda: _kept(path)):
        try:
            tokenizer = FileTokenizer(str(path))
            ids = tokenizer.encode("the cat sat on a \U0001f642")
            if not all(0 <= each < tokenizer.vocabulary for each in ids):
                raise LossError(target, f"{ids} of {tokenizer.vocabulary}; {_kept(path)}")
            tokenizer.decode([*ids, 0, tokenizer.vocabulary - 1])
        except GraphirError as error:
            return target, _refusal(error)
    return target, "read"


def _lock(rng: random.Random) -> tuple[str, str]:
    content = json.dumps(dataclasses.asdict(Holder.here())).encode()
    damaged = damage_bytes(rng, content) if rng.random() < 0.5 else _dumped(damage_json(rng, json.loads(content)))
    with _watched("locks", lambda: repr(damaged)):
        holder = Holder.read(damaged)
        if holder is not None:
            assert str(holder)
            assert holder.may_live in (True, False)
    return "locks", "nobody's" if holder is None else "somebody's"


# -- what is told ---------------------------------------------------------------------------------------------


def _dumped(value: Any) -> bytes:
    """JSON, with what JSON has no words for in Python's."""
    return json.dumps(value).encode()


def _refusal(error: GraphirError) -> str:
    """That it is refused; of the reasons, which are many, the kind."""
    text = str(error)
    for kind in ("no whole safetensors file", "checksum", "impossible configuration", "corrupt", "cannot be read"):
        if kind in text:
            return f"refused: {kind}"
    return "refused"


def _kept(path: Path) -> str:
    """Where a copy of what has done harm is, to be looked at."""
    kept = Path(workshop().parent) / f"{workshop().name}-found-{path.name}"
    if path.is_dir():
        shutil.copytree(path, kept, dirs_exist_ok=True)
    elif path.exists():
        shutil.copy(path, kept)
    return f"kept in {kept}"


_KINDS: dict[Callable[[random.Random], tuple[str, str]], float] = {
    _bytes: 4,
    _header: 3,
    _forged: 3,
    _metrics: 3,
    _tokenizer: 3,
    _lock: 1,
}
