"""What a program of XLA's needs, as its compiler has planned it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphir.memory import spelled


@dataclass(frozen=True)
class XlaMemory:
    """Bytes of one device.

    arguments    what is handed in
    results      what is returned and does not lie in arguments that were donated
    temporaries  all that is stored between
    """

    arguments: int
    results: int
    temporaries: int

    @classmethod
    def of(cls, compiled: Any) -> XlaMemory | None:
        """That of a compiled program; None where XLA does not say."""
        found = compiled.memory_analysis()
        if found is None:
            return None
        results = found.output_size_in_bytes - found.alias_size_in_bytes
        return cls(found.argument_size_in_bytes, results, found.temp_size_in_bytes)

    @property
    def bytes(self) -> int:
        """All together."""
        return self.arguments + self.results + self.temporaries

    def __str__(self) -> str:
        parts = {"arguments": self.arguments, "results": self.results, "temporaries": self.temporaries}
        return f"planned by XLA {spelled(self.bytes)}: " + ", ".join(f"{k} {spelled(v)}" for k, v in parts.items())
