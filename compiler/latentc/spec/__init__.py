"""Specs: YAML text → a checked `Spec`. `load_spec` is the way in."""

from latentc.spec.load import data_from_spec, load_spec, own_variant_names, resolved_yaml, spec_from_text, variant_names
from latentc.spec.schema import Spec, json_schema

__all__ = [
    "Spec",
    "data_from_spec",
    "json_schema",
    "load_spec",
    "own_variant_names",
    "resolved_yaml",
    "spec_from_text",
    "variant_names",
]
