"""Writes `appending.pyi`: each op as a typed method of the builder, for editors and mypy.

python -m latentc.ir.stubs
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from latentc.ir.builder import Builder
from latentc.ir.ops import OPS, Op

STUB = Path(__file__).with_name("appending.pyi")
# type -> attributes of that type in every op; other attributes are floats
_ATTRIBUTES = {
    "int": "after axis before bits block dim groups k start stop",
    "int | Sequence[int]": "dilation factor output_padding padding size stride",
    "Sequence[int]": "axes perm",
    "Sequence[Dim]": "shape sizes",
    "bool": "causal endpoint interleaved keepdims",
    "str": "dtype format mode outside to",
    "float | None": "scale",
    'Literal["none", "tanh"]': "approximate",
}
_TYPES = {name: type for type, names in _ATTRIBUTES.items() for name in names.split()}
_RESULTS = {"split": "tuple[Var, ...]", "unbind": "tuple[Var, ...]", "top_k": "tuple[Var, Var]"}
_HEAD = '''"""Written by `python -m latentc.ir.stubs`; do not edit."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from latentc.ir.builder import Var
from latentc.ir.types import Dim

Operand: TypeAlias = Var | float

class Appending:
    def op(self, op: str, *operands: Any, out: str = "", **attrs: Any) -> Any: ...
'''
_WIDTH = 120


def stub_text() -> str:
    """The text of the stub file."""
    own = vars(Builder)  # `constant` and `sub`, which applies a block
    return _HEAD + "".join(_method(row) for name, row in OPS.items() if name not in own)


def _method(row: Op) -> str:
    operands = [f"{w.rstrip('?')}: Operand{' = ...' if w.endswith('?') else ''}" for w in row.operands]
    required_first = sorted(row.attrs.items(), key=lambda item: item[1])
    attrs = [f"{name}: {_TYPES.get(name, 'float')}{' = ...' if optional else ''}" for name, optional in required_first]
    marks = [] if row.arity[1] is None else ["/", "*"]
    arguments = ["self", *operands, *marks, *attrs, "out: str = ..."]
    result = _RESULTS.get(row.name, "Var")
    head = f"    def {row.name}({', '.join(arguments)}) -> {result}:"
    if len(head) > _WIDTH:
        head = "\n".join([f"    def {row.name}(", *(f"        {a}," for a in arguments), f"    ) -> {result}:"])
    doc = textwrap.fill(f'"""{row.doc}."""', _WIDTH - 8, break_long_words=False)
    return f"{head}\n{textwrap.indent(doc, 8 * ' ')}\n"


if __name__ == "__main__":
    STUB.write_text(stub_text(), encoding="utf-8")
