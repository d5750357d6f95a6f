"""The handshake: how two processes that meet by TCP prove to each other that they know the token of their launch.

    hub  → rank    challenge    what this is, and a nonce
    rank → hub     answer       the same, with a nonce of its own, and its proof
    hub  → rank    admission    the hub's proof; or a denial

A proof is the HMAC, by SHA-256 and the token, of who proves, the challenge and the answer's nonce. So none can be used
again, and none of the hub's is one of a rank's. The token itself never travels. All three are of fixed size: before a
stranger has proved anything, there is nothing to be read but so many bytes.

Who listens on the way learns nothing by which to come in, but what follows is neither encrypted nor signed: a network
whose packets others may change needs more than this.
"""

from __future__ import annotations

import hmac
import secrets

#: Seconds that both have for it.
SECONDS = 10.0
#: What both say first: name and version.
MAGIC = b"graphir\x02"
_NONCE = _PROOF = 32
#: The sizes of the three messages.
CHALLENGE, ANSWER, ADMISSION = len(MAGIC) + _NONCE, len(MAGIC) + _NONCE + _PROOF, _PROOF
#: What the hub sends in place of an admission.
DENIAL = bytes(ADMISSION)


def begins_well(data: bytes) -> bool:
    """Whether a challenge or an answer may begin with that."""
    return data[: len(MAGIC)] == MAGIC[: len(data)]


def new_challenge() -> bytes:
    """What the hub says to who comes."""
    return MAGIC + secrets.token_bytes(_NONCE)


def new_answer(token: bytes, challenge: bytes) -> bytes:
    """What a rank says to that."""
    opening = MAGIC + secrets.token_bytes(_NONCE)
    return opening + _proof(token, b"rank", challenge, opening)


def is_answer(token: bytes, challenge: bytes, answer: bytes) -> bool:
    """Whether it is the answer of a rank that knows the token."""
    opening, proof = answer[:CHALLENGE], answer[CHALLENGE:]
    return hmac.compare_digest(proof, _proof(token, b"rank", challenge, opening)) and begins_well(opening)


def new_admission(token: bytes, challenge: bytes, answer: bytes) -> bytes:
    """What the hub says to who has given the right answer."""
    return _proof(token, b"hub ", challenge, answer[:CHALLENGE])


def is_admission(token: bytes, challenge: bytes, answer: bytes, admission: bytes) -> bool:
    """Whether it is the admission of a hub that knows the token."""
    return hmac.compare_digest(admission, new_admission(token, challenge, answer))


def _proof(token: bytes, who: bytes, challenge: bytes, opening: bytes) -> bytes:
    return hmac.digest(token, who + challenge + opening, "sha256")


__all__ = [
    "ADMISSION",
    "ANSWER",
    "CHALLENGE",
    "DENIAL",
    "begins_well",
    "is_admission",
    "is_answer",
    "new_admission",
    "new_answer",
    "new_challenge",
]
