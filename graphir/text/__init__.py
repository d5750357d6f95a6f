"""Graphs as text: `to_text` prints one so that it reads like the documents' tables, `parse` reads it back.

    graph head float32

    where
      D_h  = D/N_H

    inputs
      X  [B, S, D]

    parameters
      W  [D, D]  ~ normal(0.02)

    head  @ examples/head.py
      Q_lin    [B, S, D]         = matmul(/X, /W)                  @12
      Q_split  [B, S, N_H, D_h]  = R(Q_lin) {pattern="b s (h d) -> b s h d", factors=("h",), sizes=(N_H,)}  @13
      Q        [B, N_H, S, D_h]  = T(Q_split) {perm=(0, 2, 1, 3)}  @13

    outputs
      head/Q

Grammar. A header stands at the margin, its rows are indented; `#` starts a comment, blank lines count for
nothing, and a line that ends in a comma goes on in the next.

    text        "graph" name [dtype] ["over" mesh] part*
                                                       dtype: of all types that do not write one; else float32
                                                       mesh: its axes and their ranks, dp=2, tp=3
    part        section | block                        in any order in which names come before their use
    section     "where"                 dim "=" dim
              | "inputs"                name type
              | "parameters" | "state"  name type "~" ("zeros" | "ones" | ("normal" | "full") "(" number ")")
              | "outputs"               name
              | "aliases"               name "=" name
    block       scope [phase] ["@" file]               "/" for the top; phase: forward if it is not written
                row*
    row         value ("," value)* "=" operator "(" [name ("," name)*] ")" [attributes] [note] [body]
    body        row* block*                          of a fused node, further in than its row
    value       name type
    note        "@" [line | file ":" line | string] ["of" name] ["why" string]

The body of a fused node, the graph that it holds, knows the node's operands and what it makes itself, and nothing
else; of what it makes, that leaves which the node's row declares, under the same names.

      H  [B, D]  = fused(Z, b) {anchor="head/Z", rows=1}  @14 why "fused: +, GL"
        BC_b  [B, D]  = BC(b) {dims=(B,), axes=(0,), rank=2}  @14
        Z_b   [B, D]  = add(Z, BC_b)                          @14
        H     [B, D]  = GL(Z_b) {kind="gelu"}                 @15

A name in a block is relative to its scope, or full with a leading slash. A `line` alone is one of the
block's file. Types, dims and attributes: `graphir.text.literals`. A `where` holds what is used: a definition
that no dim needs is an error, as is a value whose type is not what its operator makes.

Every graph comes back equal, its nodes' meta included, and prints the same text again. How much a text may ask for
says its `Budget`. `to_data` says the same to programs, as what JSON is made of; its keys: `graphir.text.data`.

A text may come from a stranger. `parse` takes time and memory in proportion to it, whatever it says: what multiplies
has a limit where it is made, for builders as for texts (a dim's factors, digits and definitions, a value's dims, the
length of names, a mesh's ranks, fused nodes inside of each other), and the budget bounds the rest. `parse`, `verify`,
`compile` and a run end in a result or a `GraphirError`. `tests/attack/texts.py` mutates texts by their grammar and by
their characters to hold all four to it, and `benchmarks/parse.py` doubles texts.
"""

from graphir.text.budget import Budget
from graphir.text.data import to_data
from graphir.text.fingerprint import fingerprint
from graphir.text.parser import parse
from graphir.text.printer import to_text

__all__ = ["Budget", "fingerprint", "parse", "to_data", "to_text"]
