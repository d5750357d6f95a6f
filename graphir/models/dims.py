"""The dims of Transformers, by the documents' names: B, S, D, D_ff, N_H, D_h, V; N_KV and G of grouped heads."""

from __future__ import annotations

from graphir.ir.dims import dim, dims

B, S, D, D_FF, N_H, V = dims("B S D D_ff N_H V")
#: A head's width where it is a share of D.
D_H = dim("D_h", D / N_H)
V_PAD, N_DP = dims("V_pad N_DP")
