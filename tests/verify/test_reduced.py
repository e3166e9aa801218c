"""Fewer and cheaper steps, through every layer: oracle, emitted PyTorch and the engine in each form of the loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from bundles import tiny_bundle
from forked import python

import latentc_runtime
from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.verify.run import verify

DIGITS = ("backbone.width=32", "backbone.depth=4", "backbone.block.mixer.heads=2")
SMALL = (
    "networks.small={kind: patch_transformer, width: 16, depth: 1, patch: 4, positions: {kind: sincos_2d}, block: "
    "{mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, norm: {kind: layer_norm}, "
    "condition: {kind: adaln_zero}}}"
)
LATENTS = ("data.shape=[4, 8, 8]", "data.classes=10", "backbone.unused_channels=0")
STITCH = "optimize.stitch={network: small, until: 0.4}"
REDUCED = {
    "timesteps": ("digits_dit", ["sampler={kind: ddim, timesteps: [999, 730.5, 400, 90], guidance: {scale: 2.0}}"]),
    "timesteps of a flow": ("sit", ["sampler={kind: heun, timesteps: [0, 0.2, 0.7], guidance: {scale: 2.0}}"]),
    "timesteps with noise": ("sit", ["sampler={kind: euler_maruyama, timesteps: [0.01, 0.2, 0.7, 0.96]}"]),
    "a learned variance under another solver": (
        "dit",
        ["sampler={kind: dpm_solver_pp, order: 3, steps: 7, guidance: {scale: 2, interval: [0.2, 0.7], channels: 3}}"],
    ),
    "stitched": ("digits_dit", [SMALL, STITCH, "sampler={kind: unipc, steps: 7, guidance: {scale: 2.0}}"]),
    "cached": (
        "digits_dit",
        ["sampler={kind: ddim, steps: 6, guidance: {scale: 2.0}}", "optimize.cache={blocks: [1, 3]}"],
    ),
    "all blocks cached": (
        "digits_dit",
        [
            "sampler={kind: dpm_solver_pp, steps: 7, guidance: {scale: 2.0}}",
            "optimize.cache={blocks: [0, 4], every: 7}",
        ],
    ),
    "attention and feed-forward cached": (
        "digits_dit",
        [
            "sampler={kind: ddim, steps: 7, guidance: {scale: 2.0}}",
            "optimize.cache={blocks: [1, 4], every: 3, parts: [attn, mlp]}",
        ],
    ),
    "guided for a while, with noise": (
        "sit",
        ["sampler={kind: heun_sde, steps: 6, guidance: {scale: 2.0, interval: [0.3, 0.8]}}"],
    ),
    "cached with noise, irregularly": (
        "dit",
        [
            "sampler={kind: ddpm, steps: 9, guidance: {scale: 2.0}}",
            "optimize.cache={blocks: [1, 3], steps: [0, 1, 3, 8]}",
        ],
    ),
    "cached, stitched, guided for a while": (
        "digits_dit",
        [
            SMALL,
            STITCH,
            "sampler={kind: ddpm, steps: 14, guidance: {scale: 2.0, interval: [0.2, 0.9]}}",
            "optimize.cache={blocks: [1, 4], every: 3}",
        ],
    ),
}


FORMS = ("unroll", "loop", "host")
# Each in one of the forms in turn, and all reductions at once in every form.
EACH = [(case, FORMS[i % 3]) for i, case in enumerate(REDUCED)]
EACH += [(case, form) for case in [*REDUCED][-1:] for form in FORMS if (case, form) not in EACH]


@pytest.mark.parametrize(("case", "form"), EACH)
def test_every_form_agrees(case: str, form: str, tmp_path: Path) -> None:
    name, changes = REDUCED[case]
    overrides = [*DIGITS, *(LATENTS if name != "digits_dit" else ()), *changes]
    folder = tiny_bundle(name, tmp_path / "bundle", overrides, form=form)
    report = verify(folder)
    assert report.ok, report.text()
    assert any(c.what == "sampler" for c in report.comparisons) and report.controls


@pytest.mark.parametrize("precision", ["fp16"])
def test_what_is_cached_may_be_half(precision: str, tmp_path: Path) -> None:
    overrides = [*DIGITS, *REDUCED["cached"][1], f"target.precision={precision}"]
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", overrides, form="loop"))
    assert report.ok, report.text()
    spec = load_spec("digits_dit", None, overrides)
    module = optimised(lower(spec), spec).module
    assert any(v.name.startswith("added") for fn in module.functions.values() for n in fn.nodes for v in n.outputs)


def test_the_emitted_project_draws_the_samples_of_the_engine(tmp_path: Path) -> None:
    """Noise of groups of steps, made row by row from the seeds: in sample.py, and in the runtime by the host."""
    name, changes = REDUCED["cached with noise, irregularly"]
    overrides = [*DIGITS, *LATENTS, *changes]
    folder = tiny_bundle(name, tmp_path / "bundle", overrides, form="host")
    spec = load_spec(name, None, overrides)
    project = tmp_path / "project"
    project_from_lowered(lower(spec), spec, project)
    arguments = ["--weights", str(tmp_path / "bundle.main.safetensors"), "--class", "3,7", "--per-class", "2"]
    done = python(project, "sample.py", *arguments, "--seed", "5", "--raw", str(tmp_path / "raw.npz"))
    assert done.returncode == 0, done.stderr
    drawn = np.load(tmp_path / "raw.npz")["samples"]
    ours = latentc_runtime.load(folder, device="cpu").sample([3, 3, 7, 7], [5, 6, 7, 8])
    assert np.abs(drawn - ours).max() < 1e-4 * np.abs(ours).max()
    other = latentc_runtime.load(folder, device="cpu").sample([3, 3, 7, 7], [6, 6, 7, 8])
    assert np.abs(drawn - other).max() > 1e-2 * np.abs(ours).max()
