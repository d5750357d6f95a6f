"""The documents' own names where they differ from the language's systematic ones.

A gradient is `d` + the primal's name, and the part of it that comes through one use is `d` + the primal's
name + `.` + the name of what that use makes. The documents (A 1.3.3, A 1.4.3) name a few otherwise; and
some names are spelled in letters that are awkward to type. This is the whole table, in both uses: looking a
value up under the documents' name, and drawing it so.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

#: The documents' local name -> ours.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "K^T": "K_T",
        "dK^T": "dK_T",
        "dX_norm,Q": "dX_norm.Q_lin",
        "dX_norm,K": "dX_norm.K_lin",
        "dX_norm,V": "dX_norm.V_lin",
        "dU_in": "dH_inter",
        "P_θ": "P_theta",
        "dP_θ": "dP_theta",
        "γ": "gamma",
        "β": "beta",
        "dγ": "dgamma",
        "dβ": "dbeta",
        "ℒ": "L",
        "dℒ": "dL",
    }
)
