"""Recipes: weights that passes make of the model's, in text, in the oracle, in the exporter, and back again."""

import itertools

import numpy as np
import pytest
from ir_parse import module_from_text
from onnx_runs import session_of

from latentc.export.recipes import recovered
from latentc.export.store import expression
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Init, Param, Recipe, Value, own_parameters, parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import f32
from latentc.ir.verify import VerifyError, verify
from latentc.passes.inline import inline
from latentc.weights import Array, Stored, materialise, read_safetensors, write_safetensors
from latentc.weights.expr import Concatenate


def param(name, *shape):
    return Param(Value(name, f32(*shape)), Init("normal", {"std": 0.5}))


W1, W3, S = param("w1.weight", 3, 4), param("w3.weight", 2, 4), param("s", 4)
SCALED = Recipe("mul", (Recipe("affine", (W3,), {"mul": 2.0, "add": 1.0}), S))
MERGED = Recipe("concat", (W1, SCALED), {"axis": 0})


def module(recipe=MERGED):
    """Two calls of a function whose weight is made of two others, one of them rescaled."""
    owner = ModuleBuilder()
    b = owner.function("ffn")
    x = b.input("x", f32(2, 4))
    scaled = b.op("mul", x, b.param("s", f32(4), "normal"))
    b.output(
        b.op(
            "add",
            b.op("linear", x, b.derived("w13.weight", recipe)),
            b.op("linear", scaled, b.param("v", f32(5, 4), "normal")),
        )
    )
    b.finish()
    b = owner.function("main")
    x = b.input("x", f32(2, 4))
    b.output(b.op("add", b.call("ffn", "a.0", x), b.call("ffn", "a.1", x)))
    b.finish()
    owner.entries["main"] = "main"
    return owner.finish()


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    shapes = {path: p.type.shape for path, p in own_parameters(module(), "main").items()}
    return {path: rng.standard_normal(tuple(map(int, shape))).astype(np.float32) for path, shape in shapes.items()}


def by_hand(w, x):
    total = 0
    for call in ("a.0.", "a.1."):
        made = np.concatenate([w[f"{call}w1.weight"], (w[f"{call}w3.weight"] * 2 + 1) * w[f"{call}s"]])
        total = total + x @ made.T + (x * w[f"{call}s"]) @ w[f"{call}v"].T
    return total


def test_the_models_own_weights_are_those_recipes_start_from(weights):
    assert sorted(weights) == [f"a.{i}.{name}" for i in (0, 1) for name in ("s", "v", "w1.weight", "w3.weight")]
    assert "a.0.w13.weight" in parameters(module(), "main")


def test_text_holds_recipes():
    text = text_from_module(module())
    assert "weight %w13.weight: f32[5, 4] = concat([weight %w1.weight: f32[3, 4] = normal {std=0.5}], mul(" in text
    assert text_from_module(module_from_text(text)) == text


@pytest.mark.parametrize("flat", [False, True])
def test_the_oracle_makes_them(weights, flat):
    verified = verify(module())
    verified = inline(verified, "main") if flat else verified
    x = np.random.default_rng(1).standard_normal((2, 4))
    (y,) = Interpreter(verified, weights).run("main", x)
    np.testing.assert_allclose(y, by_hand({k: v.astype(np.float64) for k, v in weights.items()}, x), rtol=1e-12)


def test_an_engine_gets_them(weights):
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    (y,) = session_of(inline(module(), "main"), weights).run(None, {"x": x})
    np.testing.assert_allclose(y, by_hand(weights, x), rtol=1e-5, atol=1e-5)


def test_the_model_comes_back_from_what_was_made(weights):
    params = parameters(module(), "main")
    held = {path: Array(weights[path]) for path in params if path in weights}
    held |= {
        path: Array(materialise(expression({k: Array(v) for k, v in weights.items()}, path, p)))
        for path, p in params.items()
        if p.recipe is not None
    }
    found = recovered(params, held)
    assert sorted(found) == sorted(weights)
    for path, expr in found.items():
        np.testing.assert_allclose(materialise(expr), weights[path], rtol=1e-5, atol=1e-6)
    # The factors are needed: without them that part stays unknown, the other does not.
    assert sorted(recovered(params, {k: v for k, v in held.items() if k.endswith("w13.weight")})) == [
        "a.0.w1.weight",
        "a.1.w1.weight",
    ]


@pytest.mark.parametrize(("cuts", "whole"), [((0, 2, 4, 6), True), ((0, 4, 6), True), ((0, 3, 6), False)])
def test_a_weight_comes_back_from_slices_of_a_concatenation(cuts, whole):
    """A bias of which a part was raised by one, and which was then cut; a cut within that part loses it."""
    bias, value = param("bias", 6), np.arange(6.0, dtype=np.float32)
    first, second, third = (Recipe("slice", (bias,), {"axis": 0, "start": i, "stop": i + 2}) for i in (0, 2, 4))
    raised = Recipe("affine", (second,), {"mul": 1.0, "add": 1.0})
    joined = Recipe("concat", (first, raised, third), {"axis": 0})
    made = {
        f"bias.{start}": Param(
            Value(f"bias.{start}", f32(stop - start)),
            Init("made"),
            "weight",
            Recipe("slice", (joined,), {"axis": 0, "start": start, "stop": stop}),
        )
        for start, stop in itertools.pairwise(cuts)
    }
    held = {path: Array(materialise(expression({"bias": Array(value)}, path, p))) for path, p in made.items()}
    found = recovered({"bias": bias, **made}, held)
    assert ("bias" in found) == whole
    if whole:
        np.testing.assert_array_equal(materialise(found["bias"]), value)


def test_parts_that_lie_side_by_side_are_referred_to(tmp_path, weights):
    """Merging what a file has in one piece copies nothing."""
    plain = Recipe("concat", (W1, W3), {"axis": 0})
    path = tmp_path / "w.safetensors"
    write_safetensors(
        path, {"w1.weight": Array(weights["a.0.w1.weight"]), "w3.weight": Array(weights["a.0.w3.weight"])}
    )
    made = expression(read_safetensors(path), "w13", Param(Value("w13", f32(5, 4)), Init("made"), "weight", plain))
    assert isinstance(made, Stored | Concatenate)
    np.testing.assert_array_equal(materialise(made)[3:], weights["a.0.w3.weight"])


@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        (Recipe("concat", (W1, param("w", 2, 5)), {"axis": 0}), "cannot concatenate"),
        (Recipe("mul", (W1, param("s", 3))), "does not scale"),
        (Recipe("melt", (W1,)), "there is no recipe 'melt'"),
        (Recipe("concat", (W1, W3)), "axis"),
        (Recipe("affine", (W1,), {"mul": 1.0, "add": 0.0}), r"f32\[5, 4\]; its recipe computes f32\[3, 4\]"),
    ],
)
def test_what_does_not_fit_is_found(recipe, fault):
    bad = module(Recipe("concat", (W1, W3), {"axis": 0}))
    fn = bad.functions["ffn"]
    wrong = tuple(p if p.recipe is None else Param(p.value, p.init, p.kind, recipe) for p in fn.params)
    with pytest.raises(VerifyError, match=fault):
        verify(bad.with_(functions={**bad.functions, "ffn": fn.with_(params=wrong)}))
