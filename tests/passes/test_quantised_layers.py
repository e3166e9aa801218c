"""Quantisation: golden before and after; what each scheme may err by; smoothing changes nothing; clones; recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ir_parse import module_from_text
from quantised_systems import ENTRY, system

from latentc.engines import ENGINES
from latentc.export.recipes import recovered
from latentc.export.store import expression
from latentc.ir.core import Init, Param, Recipe, Value, own_parameters, parameters, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import OpError
from latentc.ir.recipes import RECIPES
from latentc.ir.text import text_from_module
from latentc.ir.types import f32
from latentc.ir.verify import verify
from latentc.measure.tolerances import tolerance_of
from latentc.passes.quantize.plan import LayerQuant, Quantization, Scheme, quantizable
from latentc.passes.quantize.rewrite import quantize
from latentc.pipeline import optimised
from latentc.weights import Array, materialise, packed, unpacked

# Relative to the largest output, with random weights of two blocks; measured, and half as much again.
ERRORS = {"int8": 0.1, "int8_dynamic": 0.1, "int8_weights": 0.03, "int4_weights": 0.45, "fp8": 0.2}
ERRORS |= {"nvfp4": 0.6, "nvfp4_weights": 0.5, "mxfp4_weights": 0.45}
CASES = [
    (engine, scheme) for engine, row in ENGINES.items() if engine != "tensorrt" for scheme in row.quantised.schemes
]


@pytest.mark.parametrize("name", ["digits_dit", "digits_llamagen"])
@pytest.mark.parametrize(("engine", "scheme"), CASES)
def test_the_error_is_that_of_the_rounding(name: str, engine: str, scheme: Any) -> None:
    made = system(name, engine, scheme)
    assert made.quantization.plan
    assert 0 < made.error() < ERRORS[scheme]
    text = text_from_module(made.after)
    assert text_from_module(module_from_text(text)) == text
    assert quantize(made.before, {}, engine) is made.before


def test_every_scheme_has_tolerances() -> None:
    for scheme in get_args(Scheme):
        assert tolerance_of("fp16", scheme, rounded=True).sampler <= tolerance_of("fp16", scheme, rounded=False).sampler


@pytest.mark.parametrize("name", ["digits_dit", "digits_llamagen"])
@pytest.mark.parametrize("scheme", ["int8", "int8_weights"])
def test_smoothing_changes_nothing_else(name: str, scheme: Any) -> None:
    """Vectors that span an order of magnitude: a division in a wrong place would be an error of the order of 1."""
    made = system(name, "openvino", scheme, smooth=True)
    assert made.error() < 3 * ERRORS[scheme]


def test_control_one_side_of_a_smoothing_alone() -> None:
    """Weights multiplied by a vector whose inverse is not in the norm: found at once."""
    made = system("digits_dit", "openvino", "int8_weights", smooth=True)
    block = made.after.functions["DiTBlock.forward"]
    nodes = tuple(replace(n, inputs=n.inputs[:1]) if n.op == "layer_norm" else n for n in block.nodes)
    broken = made.after.with_(functions={**made.after.functions, block.name: block.with_(nodes=nodes)})
    assert made.error(broken) > 10 * made.error()


def test_smoothing_is_folded_into_what_makes_the_value() -> None:
    """Norms divide for nothing; of a modulation the shift alone is multiplied; other values have a product each."""
    made = system("digits_dit", "openvino", "int8", smooth=True)
    block = next(fn for name, fn in made.after.functions.items() if name.startswith("DiTBlock.forward.late"))
    norms = [n for n in block.nodes if n.op == "layer_norm"]
    assert [len(n.inputs) for n in norms] == [2, 2]
    products = [n for n in block.nodes if n.op == "mul" and n.inputs[1].name.endswith("unsmooth")]
    assert [tuple(n.inputs[0].type.shape[1:]) for n in products] == [(1, 64), (1, 64)]
    inner = [n for fn, n in walk(made.after) if fn.name.startswith(("Attention", "Mlp")) and n.op == "mul"]
    assert sorted(n.inputs[1].name for n in inner) == ["fc2.unsmooth", "proj.unsmooth"]
    # In a norm with a scale of its own, that is divided; its products are of constants.
    tokens = system("digits_llamagen", "openvino", "int8", smooth=True)
    decode = tokens.after.functions["TransformerBlock.decode"]
    scaled = {n.outputs[0] for n in decode.nodes if n.op == "mul" and n.inputs[0].name.startswith("norm")}
    assert all(n.inputs[1] in scaled for n in decode.nodes if n.op == "rms_norm")


def test_calls_whose_plans_differ_get_functions_of_their_own() -> None:
    made = system("digits_dit", "openvino", "int8", only="blocks.")
    assert set(made.after.functions) == set(made.before.functions)  # one plan for all blocks: nothing is cloned
    plan = {p: how for p, how in made.quantization.plan.items() if "blocks.1" not in p}
    plan["main.blocks.1.mlp.fc1.weight"] = LayerQuant("int8_weights")
    after = optimised(made.lowered, made.spec, "quantize", Quantization(plan)).module
    assert {"Mlp.forward.int8", "Mlp.forward.int8_weights", "Attention.forward.int8", "Attention.forward"} <= set(
        after.functions
    )
    held = parameters(after, after.entries[ENTRY], "main")
    assert "main.blocks.1.mlp.fc1.weight.i8" in held and "main.blocks.1.mlp.fc1.input_scale" not in held
    assert "main.blocks.1.attn.qkv.weight" in held and "main.blocks.0.attn.qkv.weight" not in held
    assert made.error(after) < ERRORS["int8"]


def test_equal_blocks_may_have_different_schemes() -> None:
    """Scales per output and per block of inputs have different names, so that the forms of one class agree."""
    made = system("digits_dit", "onnxruntime", "int8", only="blocks.")
    plan = {**made.quantization.plan, "main.blocks.1.mlp.fc1.weight": LayerQuant("int8_weights")}
    after = optimised(made.lowered, made.spec, "quantize", Quantization(plan)).module
    held = parameters(after, after.entries[ENTRY], "main")
    assert held["main.blocks.0.mlp.fc1.weight.i8.scale"].type.rank == 1
    assert held["main.blocks.1.mlp.fc1.weight.u8.scale"].type.rank == 2
    assert made.error(after) < ERRORS["int8"]


def test_layers_that_read_one_value_share_its_scale_and_rounding() -> None:
    made = system("digits_llamagen", "openvino", "int8")
    groups: dict[str, int] = {}
    for layer in quantizable(made.before).values():
        groups[layer.group] = groups.get(layer.group, 0) + 1
    rounded = [n for fn, n in walk(made.after) if n.op == "quantize"]
    assert len({(fn, n.inputs[0]) for fn, n in walk(made.after) if n.op == "quantize"}) == len(rounded)
    assert {path.removesuffix(".input_scale") for path in made.quantization.tensors} <= set(groups)


def test_unknown_layers_are_refused() -> None:
    made = system("digits_dit", "openvino", "int8")
    with pytest.raises(ValueError, match=r"called main\.blocks\.9"):
        quantize(made.before, {"main.blocks.9.mlp.fc1.weight": LayerQuant("int8")}, "openvino")


def test_heads_are_cut_apart_behind_their_transposition() -> None:
    """For TensorRT; also where attention grows a cache and positions turn what was cut."""
    for name, function in (("digits_dit", "Attention.forward"), ("digits_llamagen", "Attention.decode")):
        made = system(name, "tensorrt-rtx", "int8")
        nodes = made.after.functions[function].nodes
        (cut,) = (n for n in nodes if n.op == "split")
        assert cut.attrs["axis"] == 1 and cut.attrs["sizes"] == (4, 4, 4)
        assert sum(n.op == "transpose" for n in nodes) == 2  # of all heads, and back
    before = system("digits_dit", "openvino", "int8").after.functions["Attention.forward"].nodes
    assert sum(n.op == "transpose" for n in before) == 4


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_around_quantised_layers(precision: str) -> None:
    """Numbers go in and out in half; nothing is cast between a rounding and its product."""
    made = system("digits_dit", "tensorrt-rtx", "int8", overrides=(f"target.precision={precision}",))
    spec = made.spec.model_copy(update={"target": made.spec.target.model_copy(update={"precision": precision})})
    after = verify(optimised(made.lowered, spec, "precision", made.quantization).module, "expanded")
    half = {"fp16": "f16", "bf16": "bf16"}[precision]
    for _, node in walk(after):
        if node.op == "quantize":
            assert {v.type.dtype for v in node.inputs} == {half}
        if node.op == "dequantize":
            assert node.outputs[0].type.dtype == half
    (want, *_) = Interpreter(made.before, made.weights).run(ENTRY, *made.inputs, prefix="main")
    got = Interpreter(after, made.weights, "declared").run(ENTRY, *made.inputs, prefix="main")[0]
    assert np.abs(got.astype(np.float64) - want).max() < 1.5 * ERRORS["int8"] * np.abs(want).max()


def test_golden(golden: Any) -> None:
    parts = ["# Quantisation of the block of a DiT: int8 with smoothing for OpenVINO\n"]
    made = system("digits_dit", "openvino", "int8", smooth=True, only="blocks.")
    for title, module in (("Before", made.before), ("After", made.after)):
        kept = {n: f for n, f in module.functions.items() if n in ("Attention.forward", "Mlp.forward")}
        kept |= {n: f for n, f in module.functions.items() if n == "DiTBlock.forward.late"}
        parts += [f"{title}\n", "```", text_from_module(module.with_(functions=kept, entries={})), "```\n"]
    golden("passes/quantize.md", "\n".join(parts))


# ---- recipes


WEIGHTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.just(32)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


def made_of(weight: np.ndarray[Any, Any], recipe_of: Any) -> np.ndarray[Any, Any]:
    own = Param(Value("w", f32(*weight.shape)), Init("ones"))
    recipe = recipe_of(own)
    from latentc.ir.recipes import evaluate

    return evaluate(recipe, lambda p: weight)


def scale_of(own: Param, most: float, block: int = 0, axis: int = 0) -> Recipe:
    where = {"axis": 1, "block": block} if block else {"axis": axis}
    return Recipe("channel_scale", (own,), {**where, "most": most})


@settings(max_examples=60, deadline=None)
@given(weight=WEIGHTS, how=st.sampled_from([("i8", 127.0, 0), ("i4", 7.0, 16), ("i4", 7.0, 32), ("i8", 127.0, 8)]))
def test_scales_are_positive_cover_and_bound_the_error(weight: Any, how: Any) -> None:
    to, most, block = how
    attrs = {"to": to, **({"axis": 1, "block": block} if block else {"axis": 0})}
    scale = made_of(weight, lambda w: scale_of(w, most, block))
    numbers = made_of(weight, lambda w: Recipe("quantize", (w, scale_of(w, most, block)), attrs))
    spread = np.repeat(scale, block, 1) if block else scale[:, None]
    assert (scale > 0).all() and (np.abs(weight) <= most * spread * (1 + 1e-6)).all()
    assert (np.abs(numbers.astype(np.float32)) <= most).all()
    # The scale is one number in f32 and bf16.
    assert np.array_equal(scale.astype(ml_dtypes.bfloat16).astype(np.float32), scale)
    back = RECIPES["quantize"].undo[0](numbers, [scale], attrs)
    assert (np.abs(back - weight) <= spread * 0.5001).all()
    assert np.array_equal(
        made_of(back, lambda w: Recipe("quantize", (w, scale_of(w, most, block)), attrs)), numbers
    ) or (
        np.abs(back - weight).max() > 0  # the largest was rounded down: its scale has become another
    )


@settings(max_examples=40, deadline=None)
@given(weight=WEIGHTS, bits=st.sampled_from([4, 8]))
def test_packed_blocks_come_back(weight: Any, bits: int) -> None:
    attrs, most = {"bits": bits, "block": 16}, 2 ** (bits - 1) - 1.0
    scale = made_of(weight, lambda w: scale_of(w, most, 16))
    blocks = made_of(weight, lambda w: Recipe("pack_blocks", (w, scale_of(w, most, 16)), attrs))
    back = RECIPES["pack_blocks"].undo[0](blocks, [scale], attrs)
    assert blocks.dtype == np.uint8 and (np.abs(back - weight) <= np.repeat(scale, 16, 1) * 0.5001).all()


@given(numbers=hnp.arrays(np.int8, hnp.array_shapes(max_dims=3, max_side=5), elements=st.integers(-8, 7)))
def test_two_integers_a_byte(numbers: Any) -> None:
    small = numbers.astype(ml_dtypes.int4)
    held = packed(small)
    assert held.dtype == np.uint8 and held.size == (numbers.size + 1) // 2
    assert np.array_equal(unpacked(held, numbers.shape).astype(np.int8), numbers)


def test_control_a_scale_of_zero_is_refused() -> None:
    weight = np.ones((3, 32), np.float32)
    for op, attrs in (("quantize", {"to": "i8", "axis": 0}), ("pack_blocks", {"bits": 4, "block": 16})):
        for bad in (0.0, -1.0, np.nan):
            scale = np.full((3,) if op == "quantize" else (3, 2), bad, np.float32)
            with pytest.raises(OpError, match="positive"):
                RECIPES[op].evaluate([weight, scale], attrs)


def test_control_scales_of_the_wrong_axis_err() -> None:
    """Rows of different size: scales of columns round the small ones to nothing."""
    weight = (np.geomspace(1e-3, 10, 32)[:, None] * np.random.default_rng(0).standard_normal((32, 32))).astype("f4")

    def error(axis: int) -> float:
        attrs = {"to": "i8", "axis": axis}
        scale = made_of(weight, lambda w: scale_of(w, 127.0, axis=axis))
        numbers = made_of(weight, lambda w: Recipe("quantize", (w, scale_of(w, 127.0, axis=axis)), attrs))
        back = RECIPES["quantize"].undo[0](numbers, [scale], attrs)
        return float((np.abs(back - weight).max(1) / np.abs(weight).max(1)).max())

    assert error(0) < 0.005 and error(1) > 0.5


@pytest.mark.parametrize(("engine", "scheme"), CASES)
def test_weights_come_back_as_they_dequantise(engine: str, scheme: Any) -> None:
    """From what a bundle holds: what was quantised within its rounding, all else as it was."""
    # In blocks of 4-bit floats smoothing mixes columns of any size, so the bound below is for blocks without it.
    smooth = not scheme.endswith("weights") and scheme != "nvfp4"
    made = system("digits_dit", engine, scheme, smooth)
    params = parameters(made.after, made.after.entries[ENTRY], "main")
    given = {path: Array(np.asarray(v, np.float32)) for path, v in made.weights.items()}
    held = {path: Array(materialise(expression(given, path, p))) for path, p in params.items()}
    found = recovered(params, held)
    for path in (f"main.{own}" for own in own_parameters(made.before, made.before.entries[ENTRY])):
        error = np.abs(materialise(found[path]) - made.weights[path]).max() / np.abs(made.weights[path]).max()
        # Of a smoothed weight small columns were rounded as if they were large.
        rounding = {"int4_weights": 0.09, "int8_weights": 0.01}
        # From 4 to 6 scales half a step is 1/6 of a block's largest magnitude; MXFP4 makes 8 scales 6.
        rounding |= {"nvfp4_weights": 0.18, "nvfp4": 0.18, "mxfp4_weights": 0.25}
        assert error < (rounding.get(scheme, 0.08) if "weight" in path else 1e-6), path
    # Without its scale a quantised weight is lost, and says so by its absence.
    lost = {path: v for path, v in held.items() if not (".fc1.weight." in path and path.endswith(".scale"))}
    assert "main.blocks.0.mlp.fc1.weight" not in recovered(params, lost)


def test_a_module_with_a_wrong_recipe_does_not_verify() -> None:
    made = system("digits_dit", "openvino", "int8")
    fn = made.after.functions["Mlp.forward"]
    wrong = tuple(
        replace(p, recipe=Recipe("quantize", p.recipe.args, {"to": "u8", "axis": 0}))
        if p.name == "fc1.weight.i8" and p.recipe
        else p
        for p in fn.params
    )
    with pytest.raises(Exception, match=r"fc1\.weight\.i8"):
        verify(made.after.with_(functions={**made.after.functions, fn.name: fn.with_(params=wrong)}), "expanded")
