"""The text form: what prints parses back to an equal module, and damage is a TextError with its line."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_parse import TextError, module_from_text
from modules import sampler

from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Function, Init, Module, Node, Origin, Param, Value, frozen
from latentc.ir.text import HEADER, literal, text_from_module
from latentc.ir.types import Named, Sym, TensorType, f32
from latentc.ir.verify import VerifyError, verify

SAMPLER = text_from_module(sampler())

sizes = st.one_of(
    st.integers(1, 10**6),
    st.builds(Sym, st.sampled_from(["B", "Tokens", "N_2"]), st.integers(1, 8)),
    st.builds(lambda n: 3 * Named(n, "dim") // 2, st.integers(1, 10**6)),
    st.builds(lambda n, m: (Named(n, "heads") + m) * Named(4, "ratio"), st.integers(-3, 100), st.integers(0, 9)),
)
shapes = st.lists(st.integers(0, 3), max_size=3)
arrays = st.one_of(
    st.builds(lambda s, seed: np.random.default_rng(seed).standard_normal(s), shapes, st.integers(0, 99)),
    st.builds(lambda s, seed: np.random.default_rng(seed).integers(-(2**62), 2**62, s), shapes, st.integers(0, 99)),
    st.builds(lambda s, seed: np.random.default_rng(seed).random(s) < 0.5, shapes, st.integers(0, 99)),
    st.lists(st.floats(), max_size=20).map(np.array),
    st.sampled_from([np.float32(0.1), np.arange(3, dtype=np.uint8), np.zeros((2, 20), np.float32)]).map(np.asarray),
)
literals = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), sizes, arrays),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.sampled_from(["a", "kind", "x_2"]), inner, max_size=3),
    ),
    max_leaves=8,
)


def widened(value):
    """An attribute as the text keeps it: arrays of float64, int64 or bool, and one kind of nan."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.where(np.isnan(value), np.nan, value).astype(np.float64)
    if isinstance(value, np.ndarray):
        return value.astype(np.bool_ if value.dtype.kind == "b" else np.int64)
    if isinstance(value, tuple):
        return tuple(map(widened, value))
    return {k: widened(v) for k, v in value.items()} if isinstance(value, dict) else value


@settings(max_examples=300, deadline=None, derandomize=True)
@given(value=literals, words=st.text(max_size=30), dims=st.lists(sizes, max_size=3))
def test_anything_an_attribute_can_hold_comes_back(value, words, dims):
    type = TensorType("f32", tuple(dims))
    x, w, y = Value("x", type), Value("w.weight", f32()), Value("y", type)
    node = Node("exp", (x,), (y,), {"value": value, "more": (value,)}, loc=words)
    fn = Function(
        words,
        (x,),
        (Param(w, Init("ones", {"value": value}), "buffer"),),
        (node,),
        (y, x),
        Origin("Net", {"value": value}),
        words,
    )
    module = Module({words: fn}, {"main": words})
    text = text_from_module(module)
    again = module_from_text(text)
    assert text_from_module(again) == text
    (back,) = again.functions.values()
    assert back.name == words and back.doc == words and back.nodes[0].loc == words
    assert back.inputs[0].type == type
    for attrs in (back.nodes[0].attrs, back.params[0].init.args, back.origin.args):
        assert frozen(attrs["value"]) == frozen(widened(value))


def test_names_of_sizes_print_and_return():
    (line,) = [row for row in SAMPLER.splitlines() if "%qkv" in row or "linear(%x, %qkv.weight" in row][-1:]
    assert "3 * dim=24" in line
    fn = module_from_text(SAMPLER).functions["Attention.forward"]
    weight = next(p for p in fn.params if p.name == "qkv.weight")
    assert weight.type.shape[0].expr == "3 * dim" and weight.type.shape[0] == 24


def test_short_form_shows_the_ends_of_large_literals():
    module = sampler(steps=30)
    short = text_from_module(module, full=False)
    assert "array(f64, [30], 1 .. 0.1)" in short and "base64" in text_from_module(module)
    with pytest.raises(TextError):
        module_from_text(short)


def test_what_cannot_be_written_is_refused():
    with pytest.raises(TypeError, match="cannot hold set"):
        literal({1, 2})
    with pytest.raises(ValueError, match="not an expression"):
        Named(3, 'x"')
    with pytest.raises(ValueError, match="run-time size"):
        Sym("b")
    assert literal(math.nan) == "nan" and literal(-math.inf) == "-inf" and literal(-0.0) == "-0.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected"),
        ("latentc-ir 2\n", "line 1: expected"),
        (f'{HEADER}\nfn "f" () {{\n  return %x\n}}\n', "line 3: x is used before it is defined"),
        (f'{HEADER}\nfn "f" (%x: f31[2]) {{\n  return %x\n}}\n', "line 2: expected a type at 'f31"),
        (f'{HEADER}\nfn "f" (%x: f32[b]) {{\n  return %x\n}}\n', "line 2: expected a size at 'b]"),
        (f'{HEADER}\nfn "f" (%x: f32[2]) {{\n  return %x\n', "line 4: expected ',' at ''"),
        (f'{HEADER}\nfn "f" (%x: f32[2]) {{\n}}\n', "line 3: expected a value at '}'"),
        (f'{HEADER}\nfn "f" (%x: f32[2]) {{\n  return %x\n  return %x\n}}\n', "line 4: expected ',' at 'return %x'"),
        (f'{HEADER}\nfn "f" () {{\n  return \n}}\n\nfn "f" () {{\n  return \n}}\n', "line 8: a second function f"),
        (
            f'{HEADER}\nfn "f" (%x: f32[2]) {{\n  %y: f32[2] = exp(%x\n  return %y\n}}\n',
            "line 4: expected ',' at 'return %y'",
        ),
        (f'{HEADER}\nfn "f" (%x: f32[2]) {{\n  %y: f32[2] = exp(%x) {{a=1, a=2}}\n', "line 3: a second attribute a"),
        (f"{HEADER}\nentry f = 3\n", "line 2: expected a string at '3'"),
    ],
)
def test_damage_is_named_with_its_line(text, message):
    with pytest.raises(TextError) as caught:
        module_from_text(text)
    assert str(caught.value).startswith(message) or message in str(caught.value)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(data=st.data())
def test_mutated_text_raises_text_or_verify_errors_only(data):
    text = SAMPLER
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        match data.draw(st.sampled_from(["delete", "insert", "swap", "line", "repeat"])):
            case "delete":
                text = text[:at] + text[at + data.draw(st.integers(1, 12)) :]
            case "insert":
                bits = st.sampled_from(
                    [*'"\\%(){}[],=:@ \n-.019', "base64:", "array(", "1e999", "none", "9" * 5000, "é"]
                )
                text = text[:at] + data.draw(bits) + text[at:]
            case "swap":
                other = data.draw(st.integers(0, len(text) - 1))
                text = text[:at] + text[other : other + 5] + text[at + 5 :]
            case "line":
                lines = text.split("\n")
                del lines[at % len(lines)]
                text = "\n".join(lines)
            case "repeat":
                text = text[:at] + text[max(0, at - 40) : at] + text[at:]
        if not text:
            return
    try:
        module = module_from_text(text)
        assert text_from_module(module_from_text(text_from_module(module))) == text_from_module(module)
        verify(module)
    except TextError as error:
        assert str(error).startswith("line ")
    except VerifyError:
        pass


@pytest.mark.parametrize("kind", ["weight", "buffer", "state", "calibrated"])
def test_params_of_every_kind_come_back(kind):
    mb = ModuleBuilder()
    b = mb.function("shifted")
    x = b.input("x", f32(3))
    b.output(x + b.param("average", f32(3), "zeros", kind))
    mb.entries["shifted"] = b.finish()
    module = mb.finish()
    text = text_from_module(module)
    assert text_from_module(module_from_text(text)) == text
