"""Samplers of masked tokens: counts, given tokens that stay, and bundles that draw what the oracle draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentc_runtime
from latentc import api
from latentc.checkpoint import network_params
from latentc.components.samplers.confidence import Confidence
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32, i64
from latentc.lower import lower
from latentc.measure.execute import sampler_inputs
from latentc.spec import load_spec
from latentc.systems.maskgit.halton import Halton
from latentc.weights import Array, write_safetensors

SMALL = ("backbone.width=32", "backbone.depth=1", "sampler.steps=5")
SAMPLERS = {
    "confidence": "sampler={kind: confidence, steps: 5, guidance: {scale: 2, schedule: cosine, interval: [0.2, 1]}}",
    "redrawn": "sampler={kind: confidence, steps: 5, redraw: true}",
    "halton": "sampler={kind: halton, steps: 5, sharpness: [1, 1.2], guidance: {scale: 2}}",
    "halton, not rotated": "sampler={kind: halton, steps: 5, rotate: false}",
}


def stored(lowered: Any, path: Path) -> dict[str, np.ndarray]:
    """Random weights in a file; by the names that programs call them by."""
    rng = np.random.default_rng(3)
    params = network_params(lowered, lowered.networks["main"])
    made = {n: rng.normal(0, 0.2, [int(d) for d in p.type.shape]).astype(np.float32) for n, p in params.items()}
    write_safetensors(path, {name: Array(array) for name, array in made.items()})
    return {f"main.{name}": array for name, array in made.items()}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", SAMPLERS)
def test_programs_of_a_bundle_draw_the_oracles_tokens(case: str, engine: str, tmp_path: Path) -> None:
    overrides = [*SMALL, SAMPLERS[case], f"target.engine={engine}"]
    spec = load_spec("digits_maskgit", overrides=overrides)
    lowered = lower(spec)
    weights = stored(lowered, tmp_path / "w.safetensors")
    api.compile("digits_maskgit", tmp_path / "w.safetensors", tmp_path / "bundle", overrides=overrides, run=False)
    pipe = latentc_runtime.load(tmp_path / "bundle", device="cpu")
    rng = np.random.default_rng(0)
    given, keep = rng.integers(0, 17, (3, 64)), (rng.random((3, 64)) < 0.4).astype(np.float32)
    for program in lowered.programs:
        own = {"given": given, "keep": keep} if program.name == "inpaint" else {}
        inputs = sampler_inputs(lowered, program, [1, 5, 9], 7) | own
        (expected,) = Interpreter(lowered.module, weights).run(program.entry, *inputs.values())
        made = pipe.sample([1, 5, 9], seeds=[7, 8, 9], conditions=own, program=program.name)
        assert made.tolist() == expected.tolist()
        assert made.min() >= 0 and made.max() < 17
        if own:
            assert np.array_equal(made[keep > 0.5], given[keep > 0.5])
            assert not np.array_equal(made, given)


def test_inpainting_without_given_tokens_is_sampling() -> None:
    spec = load_spec("digits_maskgit", overrides=[*SMALL])
    lowered = lower(spec)
    rng = np.random.default_rng(3)
    params = network_params(lowered, lowered.networks["main"])
    weights = {f"main.{n}": rng.normal(0, 0.2, [int(d) for d in p.type.shape]) for n, p in params.items()}
    sample, inpaint = lowered.programs
    inputs = sampler_inputs(lowered, inpaint, [4, 4], 0)
    inputs["keep"] = np.zeros_like(inputs["keep"])
    oracle = Interpreter(lowered.module, weights)
    (other,) = oracle.run(inpaint.entry, *inputs.values())
    (made,) = oracle.run(sample.entry, *sampler_inputs(lowered, sample, [4, 4], 0).values())
    assert made.tolist() == other.tolist()


def test_hidden_tokens_of_an_edit_are_a_fraction_of_those_that_are_not_given() -> None:
    """As MaskGIT counts them: rounded down in float32, one fewer in every step, and one at least before the last."""
    sampler = Confidence(kind="confidence", steps=6, progress="end", schedule="cosine")
    column = sampler.columns(16, keeps=True)["fraction"]
    mb = ModuleBuilder()
    b = mb.function("known")
    tokens, kept = b.input("tokens", i64(B, 16)), b.input("kept", f32(B, 16))
    row = {"fraction": b.input("fraction", f32()), "kept": b.greater(kept, 0.5)}
    b.output(sampler.known(b, b.equal(tokens, 9, out="hidden"), row))
    mb.entries["known"] = b.finish()
    oracle = Interpreter(mb.finish())
    free = np.array([1, 2, 5, 9, 16])
    given = np.arange(16) >= free[:, None]
    left = free.copy()
    for i, fraction in enumerate(np.cos(np.arange(1, 7, dtype=np.float32) / 6 * np.float32(np.pi / 2))):
        (known,) = oracle.run("known", np.where(np.arange(16) < left[:, None], 9, 0), given * 1.0, column[i])
        fewer = np.maximum(np.minimum(left - 1, np.floor(free * fraction)), 1)
        left = np.zeros(5, int) if i == 5 else fewer.astype(int)
        assert (16 - known[:, 0]).tolist() == left.tolist()


@pytest.mark.parametrize("schedule", ["arccos", "cosine", "linear", "root", "square"])
@pytest.mark.parametrize(("length", "steps"), [(16, 1), (16, 16), (64, 8), (576, 32)])
@pytest.mark.parametrize("kind", [Confidence, Halton])
def test_every_step_reveals_a_token_and_the_last_all(kind: Any, length: int, steps: int, schedule: str) -> None:
    sampler = kind(kind=kind.__name__.lower(), steps=steps, schedule=schedule)
    counts = sampler.counts(length)
    assert counts[-1] == length and counts[0] >= 1
    if steps < length:
        assert np.all(np.diff(counts) >= 0) and len(counts) == steps


def test_more_steps_than_tokens_are_refused() -> None:
    with pytest.raises(Exception, match="100 steps for 64 tokens"):
        load_spec("digits_maskgit", overrides=["sampler.steps=100"])


def test_leaving_inpainting_out() -> None:
    lowered = lower(load_spec("digits_maskgit", overrides=["sampler.inpaint=false"]))
    assert [program.name for program in lowered.programs] == ["sample"]
    assert [condition.name for condition in lowered.conditions] == ["class"]


def test_tokens_of_halton_that_are_not_redrawn_stay() -> None:
    sampler = "sampler={kind: halton, steps: 4, redraw: false}"
    lowered = lower(load_spec("digits_maskgit", overrides=[*SMALL[:2], sampler]))
    rng = np.random.default_rng(3)
    params = network_params(lowered, lowered.networks["main"])
    weights = {f"main.{n}": rng.normal(0, 0.2, [int(d) for d in p.type.shape]) for n, p in params.items()}
    inputs = sampler_inputs(lowered, lowered.programs[0], [4, 5], 0)
    oracle = Interpreter(lowered.module, weights)
    (made,) = oracle.run("sample.4", *inputs.values())
    inputs["u"] = np.concatenate([inputs["u"][:2], 1 - inputs["u"][2:]])
    (other,) = oracle.run("sample.4", *inputs.values())
    known = Halton(kind="halton", steps=4).counts(64)[1]
    assert (made == other).sum(axis=1).min() >= known and not np.array_equal(made, other)
    assert made.max() < 17  # no token is the mask


def test_first_steps_keep_any_tokens_and_the_others_the_most_likely() -> None:
    sampler = "sampler={kind: confidence, steps: 5, randomness: 0, random_steps: 2, redraw: true}"
    lowered = lower(load_spec("digits_maskgit", overrides=[*SMALL[:2], sampler]))
    rng = np.random.default_rng(3)
    params = network_params(lowered, lowered.networks["main"])
    own = {n: rng.normal(0, 0.2, [int(d) for d in p.type.shape]) for n, p in params.items()}
    oracle = Interpreter(lowered.module, own | {f"main.{n}": array for n, array in own.items()})
    inputs = sampler_inputs(lowered, lowered.programs[0], [4, 5], 0)
    (made,) = oracle.run("sample.5", *inputs.values())
    tokens, label = np.full((2, 64), 17), np.array([4, 5])
    for i, count in enumerate(Confidence(kind="confidence", steps=5).counts(64)):
        (logits,) = oracle.run("main.forward", tokens, label)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        drawn = (np.cumsum(p, -1) < inputs["u"][i][..., None]).sum(-1)
        likely = np.take_along_axis(p, drawn[..., None], -1)[..., 0]
        confidence = np.where(tokens != 17, np.inf, inputs["gumbel"][i] if i < 2 else likely)
        chosen = np.argsort(np.argsort(-confidence, axis=1, kind="stable"), axis=1) < count
        tokens = np.where(chosen, drawn, tokens)
    assert np.array_equal(made, np.minimum(tokens, 16))  # no sample has the mask


def test_rcgs_guidance_of_tokens_grows_to_its_whole_scale() -> None:
    """Its code adds 6 (step + 1) / N times the difference, at a scale of 7 here."""
    sampler = load_spec("rcg_mage", overrides=["sampler.guidance={scale: 7, schedule: linear}"]).sampler
    steps = sampler.steps  # type: ignore[union-attr]
    weights = sampler.guidance.weights(list(sampler.guided_progress()))  # type: ignore[union-attr]
    np.testing.assert_allclose(weights * 6, 6 * np.arange(1, steps + 1) / steps)
