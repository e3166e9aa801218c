"""An engine is one file: the folder is the registry, and nothing outside of it asks which engine it has."""

from __future__ import annotations

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import latentc
from latentc import engines
from latentc.engines import ENGINES
from latentc.ir.ops import OPS
from latentc.passes.fuse import RULES, rules_after_quantising
from latentc.passes.quantize.plan import Scheme
from latentc.pipeline import PASSES

ROOT = Path(latentc.__file__).parent


def test_a_file_is_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(
        "from dataclasses import replace\nfrom latentc.engines.onnxruntime import ENGINE as ort\n"
        "ENGINE = replace(ort, name='toy', precisions=('fp64',))\n"
    )
    monkeypatch.setattr(engines, "__path__", [*engines.__path__, str(tmp_path)])
    assert set(engines._rows()) == {*ENGINES, "toy"}


@pytest.mark.parametrize("name", ENGINES)
def test_facts_name_what_exists(name: str) -> None:
    engine = ENGINES[name]
    assert engine.name == name and engine.graph_engine in ENGINES and PASSES[name] and RULES[name]
    missing = {*engine.missing, *engine.missing_in_loops}
    assert missing <= OPS.keys() and all(OPS[op].decompose is not None for op in missing)
    assert set(engine.quantised.schemes) <= set(Scheme.__args__)  # type: ignore[attr-defined]
    given = (*engine.quantised.schemes.values(), engine.sparse_experts, engine.fusions_after_quantising)
    assert set(itertools.chain(*given)) <= set(engine.precisions)
    assert all(rules_after_quantising(name, precision) for precision in engine.fusions_after_quantising)


def names_in(*nodes: ast.AST | None) -> set[str]:
    """Engine names among literals, and in tuples, lists and sets of them."""
    flat = [item for node in nodes for item in (getattr(node, "elts", None) or [node])]
    return {item.value for item in flat if isinstance(item, ast.Constant) and item.value in ENGINES}


def asks_for_a_name(node: ast.AST) -> bool:
    """Compares, matches or tabulates names of engines."""
    match node:
        case ast.Compare():
            return bool(names_in(node.left, *node.comparators))
        case ast.MatchValue():
            return bool(names_in(node.value))
        case ast.Dict():
            return len(names_in(*node.keys)) > 1
        case ast.Call(func=ast.Attribute(attr="startswith" | "endswith")):
            return bool(names_in(*node.args))
    return False


def test_no_code_asks_for_the_name_of_an_engine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"  # type: ignore[attr-defined]
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent.name != "engines"
        for node in ast.walk(ast.parse(path.read_text()))
        if asks_for_a_name(node)
    ]
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "x.engine == 'openvino'",
        "x in ('tensorrt', 'tensorrt-rtx')",
        "x.startswith('tensorrt')",
        "{'openvino': 1, 'tensorrt': 2}",
        "match x:\n case 'openvino': pass",
    ],
)
def test_such_code_would_be_found(code: str) -> None:
    assert any(asks_for_a_name(node) for node in ast.walk(ast.parse(code)))


def test_engines_are_described_without_importing_them() -> None:
    code = "import sys, latentc.engines; print([m for m in ('onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
