"""The operator dictionary (A's tables, B 4.4): every operator beside its d-operator, a file a family."""

from graphir.operators import split_vocabulary as _split_vocabulary  # noqa: F401  registers decompositions
from graphir.operators.attention import scale_mask, scale_mask_by_position, softmax
from graphir.operators.cache import cache_write
from graphir.operators.cast import cast
from graphir.operators.collectives import all_gather, all_reduce, all_to_all, identity, local_slice, reduce_scatter
from graphir.operators.decode import argmax, top_k
from graphir.operators.dropout import dropout
from graphir.operators.elementwise import activation, add, exponential, gated, multiply, scale, scale_by_root, soft_cap
from graphir.operators.embedding import lookup, sinusoidal_positions, tokenize
from graphir.operators.linear import matmul
from graphir.operators.loss import (
    IGNORE,
    average,
    count_elements,
    count_valid,
    cross_entropy,
    divide_by_count,
    mask_padding,
    token_ids,
)
from graphir.operators.loss_scale import adjust_scale
from graphir.operators.normalization import layer_norm, rms_norm
from graphir.operators.rotary import rope, rotary_angles
from graphir.operators.shape import broadcast, concatenate, reduce_sum, reshape, transpose
from graphir.operators.update import adam, adamw, clip_factor, is_finite, rescale, schedule, sgd, square_sum

__all__ = [
    "IGNORE",
    "activation",
    "adam",
    "adamw",
    "add",
    "adjust_scale",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "argmax",
    "average",
    "broadcast",
    "cache_write",
    "cast",
    "clip_factor",
    "concatenate",
    "count_elements",
    "count_valid",
    "cross_entropy",
    "divide_by_count",
    "dropout",
    "exponential",
    "gated",
    "identity",
    "is_finite",
    "layer_norm",
    "local_slice",
    "lookup",
    "mask_padding",
    "matmul",
    "multiply",
    "reduce_scatter",
    "reduce_sum",
    "rescale",
    "reshape",
    "rms_norm",
    "rope",
    "rotary_angles",
    "scale",
    "scale_by_root",
    "scale_mask",
    "scale_mask_by_position",
    "schedule",
    "sgd",
    "sinusoidal_positions",
    "soft_cap",
    "softmax",
    "square_sum",
    "token_ids",
    "tokenize",
    "top_k",
    "transpose",
]
