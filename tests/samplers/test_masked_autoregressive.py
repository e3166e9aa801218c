"""MAR's sampler: sets of tokens, given patches that stay, and bundles that sample what the oracle samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_weights import random_weights
from tiny_systems import SYSTEMS

import latentc_runtime
from latentc import api
from latentc.checkpoint import network_params
from latentc.components.kit.patches import patchify, unpatchify
from latentc.components.samplers.masked_autoregressive import MaskedAutoregressive
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.lower import lower
from latentc.measure.execute import sampler_inputs
from latentc.spec import load_spec
from latentc.weights import Array, write_safetensors

SMALL = ("networks.main.width=16", "networks.main.depth=1", "networks.head.width=16", "networks.head.depth=1")
SMALL += ("objective.process.schedule=cosine",)
SAMPLERS = {
    "ddpm": "{kind: masked_autoregressive, steps: 5, diffusion: {kind: ddpm, steps: 4}, guidance: {scale: 2}}",
    "ddim, unguided": "{kind: masked_autoregressive, steps: 3, diffusion: {kind: ddim, steps: 4}}",
    "cooler": "{kind: masked_autoregressive, steps: 16, temperature: 0.5, diffusion: {kind: ddpm, steps: 2, clip: 1}}",
}


def stored(lowered: Any, path: Path) -> dict[str, np.ndarray]:
    """Random weights of all networks in one file, by the names that programs call them by."""
    rng, made = np.random.default_rng(3), {}
    for name, network in lowered.networks.items():
        for key, param in network_params(lowered, network).items():
            shape = [int(d) for d in param.type.shape]
            made[f"{name}.{key}"] = rng.normal(0, 0.2, shape).astype(np.float32)
    write_safetensors(path, {key: Array(array) for key, array in made.items()})
    return made


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", SAMPLERS)
def test_programs_of_a_bundle_are_the_oracles(case: str, engine: str, tmp_path: Path) -> None:
    overrides = [*SMALL, f"sampler={SAMPLERS[case]}", f"target.engine={engine}"]
    lowered = lower(load_spec("digits_mar", overrides=overrides))
    weights = stored(lowered, tmp_path / "w.safetensors")
    api.compile("digits_mar", tmp_path / "w.safetensors", tmp_path / "bundle", overrides=overrides, run=False)
    pipe = latentc_runtime.load(tmp_path / "bundle", device="cpu")
    rng = np.random.default_rng(0)
    given, keep = rng.normal(size=(3, 1, 8, 8)).astype("f4"), (rng.random((3, 16)) < 0.4).astype("f4")
    for program in lowered.programs:
        own = {"given": given, "keep": keep} if program.name == "inpaint" else {}
        inputs = sampler_inputs(lowered, program, [1, 5, 9], 7) | own
        (expected,) = Interpreter(lowered.module, weights).run(program.entry, *inputs.values())
        made = pipe.sample([1, 5, 9], seeds=[7, 8, 9], conditions=own, program=program.name)
        assert np.abs(made - expected).max() < 1e-4 * np.abs(expected).max()
        if own:
            stays = np.kron(keep.reshape(3, 4, 4), np.ones((2, 2)))[:, None] > 0.5
            assert np.array_equal(made[stays], given[stays])
            assert np.all(made[~stays] != given[~stays])


def test_inpainting_without_given_patches_is_sampling() -> None:
    lowered = lower(load_spec("digits_mar", overrides=[*SMALL, f"sampler={SAMPLERS['ddpm']}"]))
    rng = np.random.default_rng(3)
    weights = {
        f"{name}.{key}": rng.normal(0, 0.2, [int(d) for d in param.type.shape])
        for name, network in lowered.networks.items()
        for key, param in network_params(lowered, network).items()
    }
    sample, inpaint = lowered.programs
    inputs = sampler_inputs(lowered, inpaint, [4, 4], 0)
    inputs["keep"] = np.zeros_like(inputs["keep"])
    oracle = Interpreter(lowered.module, weights)
    (other,) = oracle.run(inpaint.entry, *inputs.values())
    (made,) = oracle.run(sample.entry, *sampler_inputs(lowered, sample, [4, 4], 0).values())
    assert np.array_equal(made, other)


@pytest.mark.parametrize(("length", "steps"), [(16, 1), (16, 4), (16, 40), (256, 64), (256, 256)])
def test_sets_cover_every_token_once(length: int, steps: int) -> None:
    sampler = MaskedAutoregressive(kind="masked_autoregressive", steps=steps)
    left = sampler.hidden_counts(length)
    assert (left[0], left[-1], len(left)) == (length, 0, steps + 1)
    segments = sampler.segments(length)
    rows = [row for _, run in segments for row in run]
    assert [row[1] for row in rows[:-1]] == [row[0] for row in rows[1:]]  # each starts where the last one ended
    assert (rows[0][0], rows[-1][1]) == (length, 0)
    for (block,), run in segments:
        assert all(0 < before - after <= block for before, after, _ in run)
    assert len(segments) <= 1 + max(block for (block,), _ in segments).bit_length()


def test_patches_are_laid_out_as_they_were_cut() -> None:
    mb = ModuleBuilder()
    b = mb.function("f")
    x = b.input("x", f32(B, 3, 4, 6))
    patches = patchify(b, x, 2)
    b.output(patches, unpatchify(b, patches, (3, 4, 6)))
    mb.entries["f"] = b.finish()
    given = np.random.default_rng(0).normal(size=(2, 3, 4, 6))
    patches_, back = Interpreter(mb.finish()).run("f", given)
    assert np.array_equal(back, given)
    assert np.array_equal(patches_[:, 4], given[:, :, 2:4, 2:4].reshape(2, 12))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.diffusion.guidance={scale: 2}", "sets the guidance of this diffusion"),
        ("sampler.guidance.channels=1", "`channels` does not apply to tokens"),
        ("networks.head={kind: masked_autoencoder, width: 16, depth: 1, block: {mixer: {kind: attention, heads: 2}, "
         "feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, condition: {kind: in_context}}}", "E0306"),
        ("objective={kind: diffusion}", "E0306"),
        ("networks.main.patch=3", "do not tile"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_diagnostic(override: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_mar", overrides=[override])


def test_cold_dense_tokens_do_not_depend_on_the_noise_of_their_steps() -> None:
    """Hi-MAR's `temperature` of its authors, which pivots have as a setting of their own."""
    sizes = [*SYSTEMS["himar"].sizes, "sampler.temperature=0"]
    lowered = lower(load_spec("himar", overrides=sizes))
    rng, (program,) = np.random.default_rng(0), lowered.programs
    weights = {
        f"{name}.{path}": value
        for name, network in lowered.networks.items()
        for path, value in random_weights(network_params(lowered, network), rng, 0.2).items()
    }
    given = {v.name: v.type for v in lowered.module.entry(program.entry).inputs}
    inputs: dict[str, Any] = {name: rng.normal(size=resolved(type, 2)) for name, type in given.items()}
    for name in ("pivot_order", "order"):
        inputs[name] = np.stack([rng.permutation(inputs[name].shape[1]) for _ in range(2)])
    inputs["y"] = np.array([3, 1])
    run = Interpreter(lowered.module, weights).run
    first, *_ = run(program.entry, *inputs.values())
    inputs["noise"] = rng.normal(size=inputs["noise"].shape)
    assert np.array_equal(first, run(program.entry, *inputs.values())[0])
    inputs["x"] = rng.normal(size=inputs["x"].shape)
    assert not np.allclose(first, run(program.entry, *inputs.values())[0])


def resolved(type: Any, batch: int) -> tuple[int, ...]:
    """The shape of a type for a batch of that size."""
    return tuple(batch if size is B else int(size) for size in type.shape)
