"""Fusing nodes into groups that are carried out together, and unfolding them again.

    back to back   attention's core: what lies between two batched products is never stored whole
    chains         elementwise, row-wise and reducing nodes, computed row tile by row tile
    views          T, R, C and BC join those who read (or make) what they rearrange

What is fused follows from factor rules and declared traits alone. `fuse` makes nodes that hold their graphs
(`graphir.ir.fused`), `unfuse` puts the graphs back.

    back_to_back, chains        which nodes will be one: the two kinds of `units`
    precedence                  who must come before whom, so that no units wait for each other
    stored                      of a value and the views of it, the one that passes from one unit to others
    fuse, unfuse                from units to fused nodes, and back
"""

from graphir.passes.fuse.fuse import fuse
from graphir.passes.fuse.unfuse import unfuse

__all__ = ["fuse", "unfuse"]
