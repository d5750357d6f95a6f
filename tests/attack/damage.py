"""Damage, drawn from a seed: to bytes, and to what JSON says."""

from __future__ import annotations

import math
import random
from typing import Any

#: What stands where something else was: at the ends of ranges and beyond them, of other types, endless, nothing.
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    2**31,
    2**53,
    2**63,
    2**64,
    10**30,
    -(10**18),
    10**400,
    0.0,
    -0.5,
    0.5,
    1e-320,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "bytes",
    "0",
    "a\0b",
    "\ud800",
    "\x1b[31m",
    "x" * 5000,
    "../../../etc/passwd",
    "/dev/zero",
    "layer0/mha/W_Q",
    [],
    {},
    [[]],
    {"": {}},
)


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to three changes: bits turned, bytes replaced, cut out, put in, doubled or zeroed, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 2, 8, 64, 1024)))
        match rng.randrange(7):
            case 0 if start < len(data):
                data[start] ^= 1 << rng.randrange(8)
            case 1:
                data[start:end] = rng.randbytes(end - start)
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = rng.randbytes(rng.choice((1, 8, 64)))
            case 4:
                data[start:start] = data[start:end]
            case 5:
                data[start:end] = bytes(end - start)
            case 6:
                del data[start:]
    return bytes(data)


def damage_json(rng: random.Random, value: Any) -> Any:
    """A copy with one to three changes: something odd, missing, renamed, doubled, nudged, or from another place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _damage(rng, value)
    return value


def deep(depth: int = 100_000) -> str:
    """JSON that nests deeper than anybody reads."""
    return "[" * depth


def _damage(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        match rng.randrange(12):
            case 0:
                return {name: each for name, each in value.items() if name != key}
            case 1:
                return {f"{name}?" if name == key else name: each for name, each in value.items()}
            case 2:
                return {**value, rng.choice(("more", "", "format", "\x1b[31m", "x" * 300)): rng.choice(ODD)}
            case 3:
                return {**value, key: value[rng.choice(list(value))]}
        return {**value, key: _damage(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case 2:
                return list(reversed(value))
        return [*value[:at], _damage(rng, value[at]), *value[at + 1 :]]
    if isinstance(value, int | float) and -(10**300) < value < 10**300 and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, float(value)))
    if isinstance(value, str) and value and rng.random() < 0.4:
        return damage_bytes(rng, value.encode("utf-8", "replace")).decode("latin-1")
    return rng.choice(ODD)
