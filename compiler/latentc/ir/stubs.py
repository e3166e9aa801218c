"""Writes `appending.pyi`: each op as a typed method of the builder, for editors and mypy.

python -m latentc.ir.stubs
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from latentc.ir.builder import Builder
from latentc.ir.ops import OPS, Op

STUB = Path(__file__).with_name("appending.pyi")
# Attributes that mean the same in every op; the others are numbers.
_TYPES = {
    "approximate": 'Literal["none", "tanh"]',
    "axes": "Sequence[int]",
    "axis": "int",
    "bits": "int",
    "block": "int",
    "causal": "bool",
    "dilation": "int | Sequence[int]",
    "dim": "int",
    "dtype": "str",
    "endpoint": "bool",
    "factor": "int | Sequence[int]",
    "groups": "int",
    "interleaved": "bool",
    "k": "int",
    "keepdims": "bool",
    "output_padding": "int | Sequence[int]",
    "padding": "int | Sequence[int]",
    "per_token": "int",
    "perm": "Sequence[int]",
    "shape": "Sequence[Dim]",
    "scale": "float | None",
    "size": "int | Sequence[int]",
    "sizes": "Sequence[Dim]",
    "start": "int",
    "stop": "int",
    "stride": "int | Sequence[int]",
    "to": "str",
    "before": "int",
    "after": "int",
}
_RESULTS = {"split": "tuple[Var, ...]", "unbind": "tuple[Var, ...]", "top_k": "tuple[Var, Var]"}
_HEAD = '''"""Written by `python -m latentc.ir.stubs`; do not edit."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from latentc.ir.types import Dim
from latentc.ir.var import Var

Operand: TypeAlias = Var | float

class Appending:
    def op(self, op: str, *operands: Any, out: str = "", **attrs: Any) -> Any: ...
'''
_WIDTH = 120


def stub_text() -> str:
    """The text of the stub file."""
    own = vars(Builder)  # `constant`, and `sub`, which applies a block
    return _HEAD + "".join(_method(row) for name, row in OPS.items() if name not in own)


def _method(row: Op) -> str:
    words = row.operands.split()
    optional = [f"{w.rstrip('?')}: Operand = ..." if w.endswith("?") else f"{w}: Operand" for w in words]
    variadic = any(w.startswith("*") for w in words)
    attrs = [f"{a.rstrip('?')}: {_TYPES.get(a.rstrip('?'), 'float')}{' = ...' if a.endswith('?') else ''}"
             for a in sorted(row.attrs.split(), key=lambda a: a.endswith("?"))]  # fmt: skip
    last = ["out: str = ..."]
    marks = [] if variadic else ["/", "*"]
    arguments = ["self", *optional, *marks, *attrs, *last]
    result = _RESULTS.get(row.name, "Var")
    head = f"    def {row.name}({', '.join(arguments)}) -> {result}:"
    if len(head) > _WIDTH:
        head = "\n".join([f"    def {row.name}(", *(f"        {a}," for a in arguments), f"    ) -> {result}:"])
    doc = textwrap.fill(f'"""{row.doc}."""', _WIDTH - 8, break_long_words=False)
    return f"{head}\n{textwrap.indent(doc, 8 * ' ')}\n        ...\n"


if __name__ == "__main__":
    STUB.write_text(stub_text(), encoding="utf-8")
