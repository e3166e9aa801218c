"""MaskGen beyond what was recorded: what is dropped together, guidance beside TiTok's, scores, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.maskgen.sinusoidal_score import SinusoidalScore

SIZES = [
    "data={kind: npz, path: train.npz, tokens: {vocabulary: 11, grid: [6]}, fields: {caption: {shape: [3, 5]}, "
    "caption_pooled: {shape: [4]}, caption_null: {shape: [3, 5]}, caption_pooled_null: {shape: [4]}, aesthetic: "
    "{shape: [2]}}}",
    *("backbone.width=16", "backbone.depth=2", "backbone.heads=2", "backbone.spare_rows=3"),
    *("conditioning.aesthetic.frequencies=6", "sampler.steps=3"),
]
TEXT = {"caption": (3, 5), "caption_pooled": (4,), "caption_null": (3, 5), "caption_pooled_null": (4,)}


def given() -> dict[str, np.ndarray]:
    """Two samples' conditions."""
    rng = np.random.default_rng(0)
    made = {name: rng.standard_normal((2, *shape)).astype(np.float32) for name, shape in TEXT.items()}
    return made | {"aesthetic": rng.uniform(4, 8, (2, 2)).astype(np.float32)}


def test_a_dropped_text_loses_its_features_and_its_vector() -> None:
    lowered = lower(load_spec("maskgen", None, SIZES))
    interpreter = Interpreter(lowered.module, weights_of(lowered, 0.3))
    fn, rng = lowered.module.entry("loss"), np.random.default_rng(1)
    inputs = given() | {
        "tokens": rng.integers(0, 11, (2, 6)),
        "u": np.array([0.3, 0.6], np.float32),
        "rank": np.stack([rng.permutation(6) for _ in range(2)]),
    }
    empty = inputs | {name: inputs[f"{name}_null"] for name in ("caption", "caption_pooled")}

    def loss(given: dict[str, np.ndarray], drop: float) -> float:
        values = given | {"drop_caption": np.full(2, drop, np.float32)}
        return float(interpreter.run("loss", *(values[v.name] for v in fn.inputs))[0])

    assert loss(inputs, 0.05) == loss(empty, 0.5)
    assert abs(loss(inputs, 0.05) - loss(inputs, 0.5)) > 1e-3
    pooled_alone = inputs | {"caption": inputs["caption_null"]}
    assert abs(loss(pooled_alone, 0.5) - loss(empty, 0.5)) > 1e-4


def test_a_scale_adds_one_to_titoks() -> None:
    """With a constant scale s, the tokens are those of TiTok's sampler at the scale 1 + s."""
    drawn = {}
    for kind, scale in (("contrasted_confidence", 2.0), ("annealed_confidence", 3.0), ("annealed_confidence", 2.0)):
        sampler = [f"sampler.kind={kind}", "sampler.guidance.schedule=constant"]
        lowered = lower(load_spec("maskgen", None, [*SIZES, *sampler]))
        program, rng = lowered.module.entry("sample.3"), np.random.default_rng(2)
        noise = {"u": rng.uniform(size=(3, 2, 6)), "gumbel": rng.gumbel(size=(3, 2, 6))}
        values = given() | noise | {"scale": np.full(2, scale, np.float32)}
        interpreter = Interpreter(lowered.module, weights_of(lowered, 0.5))
        (drawn[kind, scale],) = interpreter.run("sample.3", *(values[v.name] for v in program.inputs))
    assert np.array_equal(drawn["contrasted_confidence", 2.0], drawn["annealed_confidence", 3.0])
    assert not np.array_equal(drawn["contrasted_confidence", 2.0], drawn["annealed_confidence", 2.0])


def test_other_networks_take_scores_through_a_linear_layer() -> None:
    sizes = [
        *("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "data.shape=[4, 8, 8]"),
        *("data.fields.score={shape: [2]}", "conditioning.score={kind: sinusoidal_score, frequencies: 6}"),
    ]
    lowered = lower(load_spec("dit", None, sizes))
    weights = weights_of(lowered, 0.3)
    assert weights["main.score_embedder.weight"].shape == (16, 12)
    score = SinusoidalScore(kind="sinusoidal_score", frequencies=6)
    scores = np.array([[5.0, 6.5], [4.0, 7.25]])
    angles = 100 * scores[..., None] * np.exp(-np.log(1000) * np.arange(3) / 3)
    wanted = np.concatenate([np.sin(angles), np.cos(angles)], -1).reshape(2, 12)
    b = ModuleBuilder().function("f")
    b.output(score.features(b, b.input("x", f32(2, 2)), "x"))
    b.finish()
    (found,) = Interpreter(b.module.finish(), {}).run("f", scores)
    assert np.abs(found - wanted).max() < 1e-12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["conditioning.caption={kind: features, padding: none}"], "takes one text_and_pooled"),
        (["data.fields.caption_pooled.shape=[2, 4]"], "a vector of the text has one axis"),
        (["data.fields.caption_pooled=null"], "reads field `caption_pooled`, which the data does not have"),
        (
            ["data.fields.words={shape: [3, 5]}", "conditioning.words={kind: features, padding: none}"],
            "takes vector, but condition `words` enters as tokens",
        ),
        (["data.tokens=null", "data.shape=[1, 4, 4]"], "takes tokens"),
        (["backbone.heads=3"], "3 heads do not divide a width of 16"),
        (["conditioning.aesthetic.frequencies=5"], "multiple of 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("maskgen", None, [*SIZES, *changes])
