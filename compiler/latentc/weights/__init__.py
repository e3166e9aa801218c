"""Weights as lazy expressions over file ranges: readers, a streaming writer, name maps of checkpoints."""

from latentc.weights.expr import (
    Array,
    Computed,
    Expr,
    Stored,
    by_path,
    cast,
    concatenate,
    dtype_from_name,
    dtype_name,
    reshape,
    slice_axis,
    split,
    transpose,
)
from latentc.weights.files import open_weights
from latentc.weights.names import can_import, check_inverse, export_weights, ignored_names, import_weights
from latentc.weights.nibbles import FOUR_BITS, packed, unpacked
from latentc.weights.read import blocks, materialise
from latentc.weights.rules import parse_map
from latentc.weights.safetensors import read_safetensors, write_safetensors

__all__ = [
    "FOUR_BITS",
    "Array",
    "Computed",
    "Expr",
    "Stored",
    "blocks",
    "by_path",
    "can_import",
    "cast",
    "check_inverse",
    "concatenate",
    "dtype_from_name",
    "dtype_name",
    "export_weights",
    "ignored_names",
    "import_weights",
    "materialise",
    "open_weights",
    "packed",
    "parse_map",
    "read_safetensors",
    "reshape",
    "slice_axis",
    "split",
    "transpose",
    "unpacked",
    "write_safetensors",
]
