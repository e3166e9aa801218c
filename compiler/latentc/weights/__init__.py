"""Weights as lazy expressions over file ranges: readers, a streaming writer, name maps of checkpoints."""

from latentc.weights.expr import (
    Array,
    Cast,
    Computed,
    Concatenate,
    Expr,
    Reshape,
    Slice,
    Stored,
    Transpose,
    cast,
    concatenate,
    dtype_from_name,
    dtype_name,
    is_identity,
    permute_heads,
    reshape,
    slice_axis,
    split,
    transpose,
)
from latentc.weights.files import open_weights
from latentc.weights.int4 import packed, unpacked
from latentc.weights.names import check_inverse, export_weights, ignored_names, import_weights
from latentc.weights.read import blocks, materialise, stream
from latentc.weights.rules import Rule, parse_map
from latentc.weights.safetensors import read_safetensors, write_safetensors

__all__ = [
    "Array",
    "Cast",
    "Computed",
    "Concatenate",
    "Expr",
    "Reshape",
    "Rule",
    "Slice",
    "Stored",
    "Transpose",
    "blocks",
    "cast",
    "check_inverse",
    "concatenate",
    "dtype_from_name",
    "dtype_name",
    "export_weights",
    "ignored_names",
    "import_weights",
    "is_identity",
    "materialise",
    "open_weights",
    "packed",
    "parse_map",
    "permute_heads",
    "read_safetensors",
    "reshape",
    "slice_axis",
    "split",
    "stream",
    "transpose",
    "unpacked",
    "write_safetensors",
]
