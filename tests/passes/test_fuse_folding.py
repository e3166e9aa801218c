"""Norms folded into weights: golden texts, the same numbers, the weights back, and what must not be folded."""

import numpy as np
import pytest

from latentc.components import layers
from latentc.export.recipes import folded_values, recovered
from latentc.export.store import expression
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import own_parameters, parameters, walk
from latentc.ir.interpret import Interpreter
from latentc.ir.text import text_from_module
from latentc.ir.types import B, f32
from latentc.ir.verify import verify
from latentc.lower import lower
from latentc.passes.cleanup import cleanup
from latentc.passes.fuse import FOLDING, fuse, fused
from latentc.passes.inline import inline
from latentc.passes.inline_norms import inline_norms
from latentc.spec import load_spec
from latentc.weights import Array, materialise

IMAGE, ROWS = f32(B, 3, 4, 4), f32(B, 5)


def norm(b, x, affine=False):
    return layers.batch_norm(b, "bn", x, affine=affine, eps=1e-3)


def conv(b, x, kernel=3, **options):
    return layers.conv(b, "conv", x, 4, kernel, "normal", **options)


def linear(b, x, **options):
    return layers.linear(b, "fc", x, 4, "normal", **options)


def conditional(b, x, c):
    def column(name):
        return b.reshape(layers.linear(b, name, c, 3, "normal", spectral=True), shape=(c.shape[0], 3, 1, 1))

    return norm(b, x) * (column("gain") + 1.0) + column("bias")


def forced(b, x):
    weight = b.forced_norm(b.param("forced.weight", f32(4, x.shape[1]), "normal"), eps=1e-4)
    return b.linear(x, weight)


def weight_normed(b, x):
    weight, gain = b.param("fc.weight", f32(4, x.shape[1]), "normal"), b.param("fc.g", f32(4), "ones")
    return b.linear(x, b.weight_norm(weight, gain, axis=0, output_std=1.0))


def weight_normed_upsampling(b, x):
    weight, gain = b.param("up.weight", f32(x.shape[1], 4, 2, 2), "normal"), b.param("up.g", f32(4), "ones")
    return b.conv_transpose(x, b.weight_norm(weight, gain, axis=1, output_std=1.0), stride=2)


# title -> (how it is written, its operands, {rule: how often}, whether all batch norms go)
CASES = {
    "behind a convolution": (lambda b, x: norm(b, conv(b, x)), [IMAGE], {"norm_into_product_before": 1}, True),
    "behind one without bias": (
        lambda b, x: norm(b, conv(b, x, bias=False), True),
        [IMAGE],
        {"norm_into_product_before": 1},
        True,
    ),
    "behind a spectral norm": (
        lambda b, x: norm(b, conv(b, x, spectral=True), True),
        [IMAGE],
        {"spectral_norm": 1, "norm_into_product_before": 1},
        True,
    ),
    "behind a linear layer": (
        lambda b, x: norm(b, linear(b, x, spectral=True), True),
        [ROWS],
        {"spectral_norm": 1, "norm_into_product_before": 1},
        True,
    ),
    "before a convolution": (
        lambda b, x: conv(b, norm(b, x, True), 1, spectral=True),
        [IMAGE],
        {"spectral_norm": 1, "norm_into_product_behind": 1},
        True,
    ),
    "before one without bias": (
        lambda b, x: conv(b, norm(b, x), 1, bias=False),
        [IMAGE],
        {"norm_into_product_behind": 1},
        True,
    ),
    "before a linear layer": (lambda b, x: linear(b, norm(b, x, True)), [ROWS], {"norm_into_product_behind": 1}, True),
    "of a condition": (conditional, [IMAGE, ROWS], {"spectral_norm": 2, "conditional_norm": 1}, True),
    "behind a forced norm": (
        lambda b, x: norm(b, forced(b, x)),
        [ROWS],
        {"forced_norm": 1, "norm_into_product_before": 1},
        True,
    ),
    "behind a weight norm": (
        lambda b, x: norm(b, weight_normed(b, x)),
        [ROWS],
        {"weight_norm": 1, "norm_into_product_before": 1},
        True,
    ),
    "of a transposed convolution": (weight_normed_upsampling, [IMAGE], {"weight_norm": 1}, True),
    "before padding": (lambda b, x: conv(b, norm(b, x), 3), [IMAGE], {}, False),
    "used twice": (lambda b, x: [norm(b, (h := conv(b, x))), b.relu(h)], [IMAGE], {}, False),
    "by itself": (lambda b, x: b.relu(norm(b, x, True)), [IMAGE], {}, False),
}


def module_of(build, types):
    mb = ModuleBuilder()
    b = mb.function("block")
    b.output(build(b, *(b.input(name, t) for name, t in zip("xc", types, strict=False))))
    b.finish()
    b = mb.function("main")
    b.output(b.call("block", "block", *(b.input(name, t) for name, t in zip("xc", types, strict=False))))
    mb.entries["main"] = b.finish()
    return verify(cleanup(mb.finish()))


def weights_of(module, entry="main"):
    rng = np.random.default_rng(1)
    params = own_parameters(module, module.entries[entry])
    return {
        path: rng.uniform(0.3, 1.5, [int(d) for d in p.type.shape]) * (1 if p.kind == "state" else rng.choice([-1, 1]))
        for path, p in params.items()
    }


def arrays(types):
    rng = np.random.default_rng(0)
    return [rng.standard_normal([3 if d == B else int(d) for d in t.shape]) for t in types]


@pytest.mark.parametrize("title", CASES)
def test_folding_keeps_the_meaning(title):
    build, types, applied, gone = CASES[title]
    module = module_of(build, types)
    after, report = fused(module, FOLDING)
    assert {rule: n for rule, n in report.applied.items() if n} == applied
    assert not gone or not any(
        node.op in ("batch_norm", "spectral_norm", "forced_norm", "weight_norm") for _, node in walk(verify(after))
    )
    weights = weights_of(module)
    expected = Interpreter(module, weights).run("main", *arrays(types))
    for got, want in zip(Interpreter(after, weights).run("main", *arrays(types)), expected, strict=True):
        assert np.abs(got - want).max() < 1e-12 * np.abs(want).max()


@pytest.mark.parametrize("title", CASES)
def test_the_weights_come_back(title):
    """From what the engine holds and what is kept beside it; without that a folded weight is lost."""
    build, types, applied, _ = CASES[title]
    module = module_of(build, types)
    after = fuse(module, FOLDING)
    weights = weights_of(module)
    exprs = {path: Array(value) for path, value in weights.items()}
    params = parameters(after, "main")
    engine = {param.name for param in inline(after, "main").entry("main").params}
    held = {path: expression(exprs, path, param) for path, param in params.items() if path in engine}
    beside = folded_values(params, lambda path, param: expression(exprs, path, param))
    assert all(len(expr.shape) < 2 for expr in beside.values())
    found = recovered(params, held, beside)
    for path, value in weights.items():
        back = materialise(found[path])
        assert np.abs(back - value).max() < 1e-5 * np.abs(value).max(), path
    assert bool(applied) == bool(set(weights) - set(recovered(params, held)))


@pytest.mark.parametrize(
    ("title", "rule", "reason"),
    [
        ("before padding", "norm_into_product_behind", "pads the normalised input with zeros"),
        ("used twice", "norm_into_product_before", "is also used"),
        ("by itself", "norm_into_product_before", ""),
    ],
)
def test_why_not(title, rule, reason):
    build, types, _, _ = CASES[title]
    why = fused(module_of(build, types), FOLDING)[1].why(rule)
    assert "applied 0 times" in why and reason in why


@pytest.mark.parametrize(
    ("rule", "title"),
    [
        ("norm_into_product_before", "behind a spectral norm"),
        ("norm_into_product_behind", "before a convolution"),
        ("conditional_norm", "of a condition"),
    ],
)
def test_golden(rule, title, golden):
    build, types, _, _ = CASES[title]
    module = module_of(build, types)
    before, after = (text_from_module(m) for m in (module, fuse(module, FOLDING)))
    golden(f"passes/fuse_{rule}.md", f"# {rule}\n\n## Before\n\n```\n{before}```\n\n## After\n\n```\n{after}```\n")


def test_conditional_norms_of_biggan_are_opened():
    """Each block's second norm goes into its first convolution, its first norm into the condition."""
    overrides = ["data.shape=[3, 16, 16]", "backbone.width=8", "backbone.channel_multipliers=[2, 2, 1]"]
    overrides += ["backbone.attention=[]", "backbone.latent_dim=6", "backbone.embedding=4", "data.classes=3"]
    module = lower(load_spec("biggan", None, overrides)).module
    opened = inline_norms(module)
    assert inline_norms(opened) is opened
    after, report = fused(verify(opened), FOLDING)
    assert report.applied["norm_into_product_before"] == 2 and report.applied["conditional_norm"] == 2
    rng = np.random.default_rng(0)
    weights = weights_of(module, "sample.1")
    given = rng.standard_normal((2, 6)), rng.integers(0, 3, 2)
    (want,), (got,) = (Interpreter(m, weights).run("sample.1", *given) for m in (module, after))
    assert np.abs(got - want).max() < 1e-12


def test_control_a_wrong_statistic_shows():
    build, types, _, _ = CASES["behind a spectral norm"]
    module = module_of(build, types)
    weights = weights_of(module)
    changed = {**weights, "block.bn.running_var": weights["block.bn.running_var"] * 1.01}
    (want,) = Interpreter(module, weights).run("main", *arrays(types))
    (got,) = Interpreter(fuse(module, FOLDING), changed).run("main", *arrays(types))
    assert np.abs(got - want).max() > 1e-4 * np.abs(want).max()
