"""The dims of Transformers, by the documents' names: B, S, D, D_ff, N_H, D_h, V.

Beyond the documents: heads in N_KV groups of G queries' heads each (N_H = N_KV·G), keys in number S_k where they are
others than the queries' places, a table of S_max positions, and a head's width D_h that is no share of D.
"""

from __future__ import annotations

from dataclasses import dataclass

from graphir.ir.dims import Dim, dim, dims

B, S, D, D_FF, N_H, V = dims("B S D D_ff N_H V")
V_PAD, N_DP = dims("V_pad N_DP")
S_K, S_MAX, N_TYPES = dims("S_k S_max N_types")
N_KV, G, _FREE = dims("N_KV G D_h")


@dataclass(frozen=True)
class Heads:
    """How many heads of queries, and of keys and values, there are, and how wide one is."""

    queries: Dim
    keys: Dim
    width: Dim


#: The documents': as many heads of each, which share D.
SHARES = Heads(N_H, N_H, dim("D_h", D / N_H))
#: As many heads of each, as wide as they like.
PLAIN = Heads(N_H, N_H, _FREE)
#: A head of keys and values for each G of queries.
GROUPED = Heads(dim("N_H", N_KV * G), N_KV, _FREE)
