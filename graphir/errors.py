"""Every error the product raises, one class a cause.

Each message says what was tried, with which named dims, where the user wrote it, and what to do.
The command line turns any `GraphirError` into that message and exit code 2; a traceback is a defect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraphirError(Exception):
    """The root of all errors that graphir raises on purpose."""


class DimError(GraphirError):
    """A dim is malformed, has no size, or does not divide."""


class SizeError(GraphirError):
    """A tensor is larger than any array can be, or what is to be run larger than the machine."""


class TypeCheckError(GraphirError):
    """An operator was applied to values, or with attributes, that its signature does not admit."""


class LayoutError(GraphirError):
    """A mesh, a layout or a plan contradicts itself or does not fit the value it is for."""


class OperatorError(GraphirError):
    """An operator's declaration has a hole or contradicts itself."""


class GraphError(GraphirError):
    """A graph is put together wrongly: a foreign value, a duplicate name, an unknown name."""


class VerifyError(GraphirError):
    """A finished graph breaks an invariant."""


class ParseError(GraphirError):
    """A text is not a graph; `line` and `column` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column


class DifferentiationError(GraphirError):
    """A gradient was asked for that does not exist."""


class InputError(GraphirError):
    """An array handed to an executable is missing, unknown, misshapen, of a wrong dtype or out of range."""


class RunError(GraphirError):
    """A run cannot begin, or go on, where it was asked for: from within itself, or across a fork."""


class NonFiniteError(GraphirError):
    """A computation produced NaN or infinity."""


class ConfigError(GraphirError):
    """The sizes or options of a model or a run contradict each other."""


class DataError(GraphirError):
    """A text to train on, or a prompt, cannot be used."""


class CheckpointError(GraphirError):
    """A checkpoint is missing, corrupt, foreign, or of another configuration."""


class ModelFileError(GraphirError):
    """A model that others have written lacks a part, is corrupt, or says of itself what is not understood."""


class CommunicationError(GraphirError):
    """Ranks do not find together: one has stopped, or does otherwise than the others expect."""


class StoppedError(GraphirError):
    """A run was told by a signal to end, and its last step could not be ended, because other ranks took no part."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class AgreementError(CommunicationError):
    """Ranks were not started alike; all of them raise this, with the same words."""


class MissingDependencyError(GraphirError):
    """An optional package is needed for what was asked, and not installed."""


class ExportError(GraphirError):
    """A graph, or a part of it, cannot be written in the format that it is to be exported to."""


class ReplicaError(GraphirError):
    """Ranks that should hold the same numbers do not; all of them raise this, with the same words."""


class DeviceError(GraphirError):
    """A GPU is needed for what was asked, and there is none, or it cannot do it."""


class PlanError(GraphirError):
    """What is to run cannot be laid out as it was planned: a defect of graphir, found before anything has run."""


class ProofError(GraphirError):
    """A program does not do what its graph says: something is read that is not there, or written where it must not."""


def meant(name: str, known: Iterable[str], otherwise: str = "", *, most: int = 3, cutoff: float = 0.5) -> str:
    """`did you mean W_Q or W_K?`, of the known names that are near, at most so many; `otherwise` if none is."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(close)}?" if close else otherwise
