"""Frames: what ranks send each other by TCP, and how long, and of which kind, what arrives may be.

A frame is a head of fixed size, largest bytes first, and then a text in UTF-8 and data of the lengths that the head
tells:

    kind    1 byte     what it is
    rank    4 bytes    on its way to the hub, whom it is for; on its way from there, who sent it; −1 is everybody
    number  8 bytes    what it counts: ranks, or what has been shared
    text    4 bytes    the length of the text
    data    8 bytes    the length of the data

Nothing in it can be nested, infinite or of another type than it should be, and nothing is made room for before it has
arrived.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum

from graphir.errors import CommunicationError

_HEAD = struct.Struct("!BiQIQ")
#: The longest text, a traceback, and the most data at once, in bytes.
TEXT, DATA = 1 << 20, 1 << 30
#: Everybody's rank.
ALL = -1


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1  # a rank comes: which one it is, of how many, and, as text, its process and machine
    WELCOME = 2  # all have come; the text says where rank 0 is
    REFUSED = 3  # they have not, or who came cannot be one of them; the text says why
    FAILED = 4  # a note: an error has ended that rank; the text says which
    FOLLOWED = 5  # a note: it has heard that another one failed, and ends, too
    LEFT = 6  # a note: its program has come to its end
    ASKS = 7  # a note: where is everybody?
    WAITS = 8  # a note: what it waits for
    PART = 9  # its part of what all share, the `number`th of such
    MESSAGE = 10  # from rank to rank
    GONE = 11  # it has gone without a farewell; the text says where it was, and how it went
    BYE = 12  # it has come to its end, and may go


#: What a rank says of itself to all others; see `peers`.
NOTES = frozenset([Kind.FAILED, Kind.FOLLOWED, Kind.LEFT, Kind.ASKS, Kind.WAITS])


@dataclass(frozen=True)
class Frame:
    """One frame; see the module."""

    kind: Kind
    rank: int = ALL
    number: int = 0
    text: str = ""
    data: bytes = b""


def pack(frame: Frame) -> bytes:
    """A frame as bytes; a text that is too long is cut off. CommunicationError for too much data."""
    text = frame.text.encode(errors="backslashreplace")
    if len(text) > TEXT:
        text = text[:TEXT].decode(errors="ignore").encode()
    if len(frame.data) > DATA:
        raise CommunicationError(f"a message of {len(frame.data)} bytes; by TCP ranks send no more than {DATA} at once")
    return _HEAD.pack(frame.kind, frame.rank, frame.number, len(text), len(frame.data)) + text + frame.data


class Reader:
    """Frames out of what a connection brings, piece by piece: those that its other end may send."""

    def __init__(self, expected: Collection[Kind], text: int = TEXT, data: int = DATA) -> None:
        self._expected, self._text, self._data = frozenset(expected), text, data
        self._unread = bytearray()

    @property
    def rest(self) -> bytes:
        """What has come of the next frames, and may be for another reader."""
        return bytes(self._unread)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now. ValueError for what is no frame, or none that is expected."""
        self._unread += data
        while len(self._unread) >= _HEAD.size:
            kind, rank, number, text, size = _HEAD.unpack_from(self._unread)
            if kind not in self._expected:
                raise ValueError(f"a frame of kind {kind}")
            if text > self._text or size > self._data:
                raise ValueError(f"a frame with a text of {text} and data of {size} bytes")
            begin, end = _HEAD.size + text, _HEAD.size + text + size
            if len(self._unread) < end:
                return
            frame = Frame(
                Kind(kind), rank, number, self._unread[_HEAD.size : begin].decode(), bytes(self._unread[begin:end])
            )
            del self._unread[:end]
            yield frame


__all__ = ["ALL", "DATA", "NOTES", "TEXT", "Frame", "Kind", "Reader", "pack"]
