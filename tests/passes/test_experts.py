"""Routed experts made dense: golden text, the same numbers, weights that stay ranges of their stacks and come back."""

import numpy as np
import pytest
from ir_parse import module_from_text

from latentc.diagnostics import DiagnosticError
from latentc.export.recipes import expr_from_recipe, recovered
from latentc.ir.builder import ModuleBuilder, module_class
from latentc.ir.core import parameters, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.passes.experts import expand_experts
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.weights import Array, Stored, materialise, read_safetensors, write_safetensors

SHAPES = {"w1": (3, 4, 2), "w3": (3, 4, 2), "w2": (3, 2, 4)}


@module_class("Mixture")
def mixture(b, x, gates):
    """Three experts of width 4."""
    stacks = {name: b.param(name, f32(*shape), "uniform", bound=1.0) for name, shape in SHAPES.items()}
    return b.experts(x, gates, *stacks.values(), per_token=2)


def module_of(body=mixture, more=()):
    mb = ModuleBuilder()
    b = mb.function("main")
    operands = [b.input(name, t) for name, t in (("x", f32(B, 5, 2)), ("gates", f32(B, 5, 3)), *more)]
    b.output(b.sub("moe", body, *operands))
    mb.entries["main"] = b.finish()
    return verify(mb.finish())


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {f"moe.{name}": rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def arrays(seed=1):
    rng = np.random.default_rng(seed)
    gates = rng.random((2, 5, 3)) * (rng.random((2, 5, 3)) < 0.6)
    return rng.standard_normal((2, 5, 2)), gates


FORMS = ("dense", "sparse")


def test_golden(golden):
    before = module_of()
    sections = ["# The pass `experts`", "## Before", text_from_module(before)]
    for form in FORMS:
        sections += [f"## {form.capitalize()}", text_from_module(verify(expand_experts(before, form)))]
    golden("passes/experts.md", "\n\n".join(s if s.startswith("#") else f"```\n{s}```" for s in sections) + "\n")


@pytest.mark.parametrize("form", FORMS)
def test_it_is_exact_and_comes_back_from_text(form):
    before = module_of()
    after = verify(expand_experts(before, form))
    assert not [node for _, node in walk(after) if node.op == "experts"]
    assert expand_experts(after, form) is after
    again = module_from_text(text_from_module(after))
    assert text_from_module(again) == text_from_module(after)
    (want,) = Interpreter(before, weights()).run("main", *arrays())
    for module in (after, again):
        np.testing.assert_allclose(Interpreter(module, weights()).run("main", *arrays())[0], want, rtol=1e-12)


def test_which_form_an_engine_gets():
    def ops(*overrides):
        spec = load_spec("dit_moe", "S/2-8E2A", ["backbone.depth=1", "sampler.steps=2", *overrides])
        return {node.op for _, node in walk(optimised(lower(spec), spec, "experts").module)}

    assert "expert" in ops()
    dense = (["target.engine=openvino"], ["target.precision=fp16"], ["optimize.experts=dense"])
    assert not any({"expert", "experts"} & ops(*overrides) for overrides in dense)
    assert "expert" not in ops("optimize.quantize={scheme: int8_weights}")
    with pytest.raises(DiagnosticError, match=r"E0305.*does not support sparse experts"):
        ops("target.engine=openvino", "optimize.experts=sparse")


@pytest.mark.parametrize(
    ("option", "said"),
    [("experts=sparse", "no network has routed experts"), ("guidance=sequential", "no sampler eval")],
)
def test_options_that_apply_to_nothing_are_refused(option, said):
    plain = [f"optimize.{option}", "sampler.guidance=null", "backbone.depth=1"]
    with pytest.raises(DiagnosticError, match=said):
        lower(load_spec("digits_dit", None, plain))


def test_control_a_token_in_the_wrong_expert_shows():
    x, gates = arrays()
    wrong = Interpreter(expand_experts(module_of()), weights()).run("main", x, gates[..., [1, 0, 2]])[0]
    assert np.abs(wrong - Interpreter(module_of(), weights()).run("main", x, gates)[0]).max() > 1e-2


def test_stacks_that_are_no_params_are_cut_in_the_graph():
    @module_class("Passed")
    def passed(b, x, gates, w1, w3, w2):
        """Weights from outside."""
        return b.experts(x, gates, w1, w3, w2, per_token=1)

    module = module_of(passed, [(name, f32(*shape)) for name, shape in SHAPES.items()])
    given = [*arrays(), *weights().values()]
    (want,) = Interpreter(module).run("main", *given)
    np.testing.assert_allclose(Interpreter(verify(expand_experts(module))).run("main", *given)[0], want, rtol=1e-12)


def test_an_expert_is_a_range_of_its_stack(tmp_path):
    """Nothing is copied: by the model's own names, and by names with a tensor an expert."""
    write_safetensors(tmp_path / "w.safetensors", {name: Array(a) for name, a in weights().items()})
    held = read_safetensors(tmp_path / "w.safetensors")
    params = parameters(expand_experts(module_of()), "main")
    made = {path: expr_from_recipe(p.recipe, lambda own: held[f"moe.{own.name}"]) for path, p in params.items()}
    assert len(made) == 9 and all(isinstance(expr, Stored) for expr in made.values())
    np.testing.assert_array_equal(materialise(made["moe.w2.1"]), weights()["moe.w2"][1])
    back = recovered(params, made)
    assert set(back) == set(weights())
    assert all(isinstance(expr, Stored) for expr in back.values()), "neighbours are one range again"
    assert all(np.array_equal(materialise(back[name]), a) for name, a in weights().items())
    made.pop("moe.w2.1")
    assert set(recovered(params, made)) == {"moe.w1", "moe.w3"}
