"""FractalGen beyond what was recorded: one channel, likelihoods against samples, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

TINY = [
    "data={kind: npz, path: train.npz, classes: 3, shape: [1, 4, 4]}",
    "backbone.levels=[{side: 2, width: 8, depth: 1, heads: 2}, {side: 1, width: 8, depth: 1, heads: 2}]",
    "backbone.colours={width: 8, depth: 1, heads: 2}",
    "backbone.values=5",
]
CAUSAL = [
    "backbone.block.mixer.causal=true",
    "sampler={kind: fractal, guidance: null}",
]


def test_numbers_in_the_shares_of_an_image_draw_it_again() -> None:
    """An image of one channel, from the shares of its own values in the whole sequence: each is in the range of its
    value, and the cached levels draw the same image."""
    lowered = lower(load_spec("digits_fractalgen", None, [*TINY, *CAUSAL]))
    weights, rng = weights_of(lowered, 0.5, 1), np.random.default_rng(2)
    run = Interpreter(lowered.module, {n.removeprefix("main."): a for n, a in weights.items()}).run
    ids = rng.integers(0, 5, (1, 4, 4))
    x = (ids / 2 - 1)[:, None]
    by_patch = x.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)
    (z,) = run("main.embed", np.array([1]))
    (z,) = run("main.level_0", by_patch[None], z)
    (z,) = run("main.level_1", by_patch[..., None], z[0])
    values = np.rint((by_patch + 1) * 2).astype(np.int64).reshape(16, 1)
    (logits,) = run("main.pixels", values, z.reshape(16, 8))
    p = np.exp(logits[:, 0] - logits[:, 0].max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    upper = np.take_along_axis(np.cumsum(p, -1), values, -1)[:, 0]
    own = np.take_along_axis(p, values, -1)[:, 0]
    (program,) = lowered.programs
    given = {"y": np.array([1]), "u": (upper - own / 2)[None]}
    inputs = [given[v.name] for v in lowered.module.functions[program.entry].inputs]
    (drawn,) = Interpreter(lowered.module, weights).run(program.entry, *inputs)
    assert np.abs(drawn - x).max() < 1e-6
    terms = {"x": x, "y": np.array([1]), "drop": np.ones(1)}
    inputs = [terms[v.name] for v in lowered.module.functions["loss.terms"].inputs]
    (loss,) = Interpreter(lowered.module, weights).run("loss.terms", *inputs)
    assert np.allclose(loss, -np.log(own).mean(), rtol=1e-6)


def test_only_pixels_that_every_level_hides_count() -> None:
    """Without hidden pixels but one patch's half: the loss is the mean over those, whatever the others' values are."""
    lowered = lower(load_spec("digits_fractalgen", None, [*TINY, "sampler.steps=2", "sampler.inner_steps=[2]"]))
    weights, rng = weights_of(lowered, 0.5, 3), np.random.default_rng(4)
    x = rng.integers(0, 5, (1, 1, 4, 4)) / 2 - 1.0
    order = np.array([[[3.0, 0.0, 1.0, 2.0]]])  # argsort: 1, 2, 3, 0: of one hidden patch the last
    given = {"x": x, "y": np.array([0]), "drop": np.ones(1), "order_0": order / 4}
    given |= {"fraction_0": np.full((1, 1), 3.0), "fraction_1": np.full((1, 4), 2.0)}
    given |= {"order_1": np.tile(np.arange(4) / 4, (1, 4, 1))}
    inputs = [v.name for v in lowered.module.functions["loss.terms"].inputs]
    run = Interpreter(lowered.module, weights).run
    (loss,) = run("loss.terms", *(given[name] for name in inputs))
    # The last patch is hidden, and of its pixels the first two: changes there matter, and are no change elsewhere
    # but for what is read of visible patches.
    hidden, beside = x.copy(), x.copy()
    hidden[0, 0, 2, 2] = -x[0, 0, 2, 2] if x[0, 0, 2, 2] else 1.0
    beside[0, 0, 0, 0] = -x[0, 0, 0, 0] if x[0, 0, 0, 0] else 1.0
    of_own = Interpreter(lowered.module, {n.removeprefix("main."): a for n, a in weights.items()}).run
    patches = x.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(1, 4, 4)
    (z,) = of_own("main.embed", np.array([0]))
    (z,) = of_own("main.level_0", patches, np.array([[0.0, 0.0, 0.0, 1.0]]), z)
    (z,) = of_own("main.level_1", patches[0, 3][None, :, None], np.array([[1.0, 1.0, 0.0, 0.0]]), z[:, 3])
    values = np.rint((patches[0, 3, :2] + 1) * 2).astype(np.int64)[:, None]
    (logits,) = of_own("main.pixels", values, z[0, :2, 0])
    p = np.exp(logits[:, 0]) / np.exp(logits[:, 0]).sum(-1, keepdims=True)
    assert np.allclose(loss, -np.log(np.take_along_axis(p, values, -1)).mean(), rtol=1e-5)
    (other,) = run("loss.terms", *({**given, "x": hidden}[name] for name in inputs))
    assert not np.allclose(loss, other)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.levels=[{side: 3, width: 8, depth: 1, heads: 2}]"], "patches of 3 do not divide a side of 4"),
        (["backbone.levels=[{side: 2, width: 8, depth: 1, heads: 2}]"], "patches have a side of 2"),
        (["backbone.levels=[{side: 1, width: 9, depth: 1, heads: 2}]"], "2 heads do not divide the width of 9"),
        (["backbone.colour_block.mixer.causal=false"], "must be causal"),
        (["backbone.block.mixer.causal=true"], "take one step per patch"),
        (["sampler.inner_steps=[2, 2]"], "2 numbers of steps, but 1 levels follow the first"),
        (["conditioning={}", "sampler.guidance=null"], "needs a condition"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_fractalgen", None, [*TINY, *overrides])
