"""Flows of videos, the end of Jacobi iterations by a threshold, and the denoiser that learns beside a flow."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from random_weights import random_weights
from tiny_systems import SYSTEMS

from latentc.checkpoint import network_params
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = SYSTEMS["starflow_v"].sizes


TEXT = ("text", "text_mask")


@cache
def lowered_video(*options: str) -> Lowered:
    return lower(load_spec("starflow_v", None, [*SIZES, *options]))


def weights_of(lowered: Lowered, name: str = "main") -> dict[str, np.ndarray]:
    params = network_params(lowered, lowered.networks[name])
    found = random_weights(params, np.random.default_rng(3), 0.1)
    return {
        path: array + path.endswith(("norm1.weight", "norm2.weight", "norm.weight")) for path, array in found.items()
    }


def given(samples: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((samples, 1, 3, 4, 6)),
        "z": rng.standard_normal((samples, 18, 4)),
        "text": rng.standard_normal((samples, 3, 8)),
        "text_mask": np.ones((samples, 3), bool),
        "scale": np.full(samples, 2.0),
        "noise": rng.standard_normal((samples, 1, 3, 4, 6)),
        "drop_text": np.ones(samples),
    }


def run(lowered: Lowered, entry: str, batch: dict[str, Any]) -> list[np.ndarray]:
    held = {f"{n}.{p}": a for n in lowered.networks for p, a in weights_of(lowered, n).items()}
    names = [value.name for value in lowered.module.entry(entry).inputs]
    return list(Interpreter(lowered.module, held).run(entry, *(batch[name] for name in names)))


def test_a_video_is_the_inverse_of_its_latent() -> None:
    """Jacobi iterations until nothing changes find it, too; a frame says nothing of those before it."""
    lowered, batch = lowered_video("sampler={kind: starflow_inverse}"), given(2)
    main = Interpreter(lowered.module, weights_of(lowered))
    z, _ = main.run("main.forward", batch["x"], batch["text"], batch["text_mask"])
    (again,) = main.run("main.inverse", z, batch["text"], batch["text_mask"])
    np.testing.assert_allclose(again, batch["x"], atol=1e-9)
    later = batch["x"].copy()
    later[:, :, 2] += 1
    changed, _ = main.run("main.forward", later, batch["text"], batch["text_mask"])
    assert np.array_equal(changed[:, :12], z[:, :12]) and np.abs(changed - z)[:, 12:].max() > 0.1
    exact = lowered_video(
        "sampler={kind: starflow_inverse, jacobi: {block: 6, later: 18, iterations: 18, threshold: 1e-24}}"
    )
    (found,) = Interpreter(exact.module, weights_of(exact)).run("main.inverse", z, batch["text"], batch["text_mask"])
    np.testing.assert_allclose(found, batch["x"], atol=1e-9)


def test_a_sample_does_not_depend_on_others_where_iterations_end() -> None:
    lowered, batch = lowered_video("sampler.jacobi.threshold=0.003", "sampler.jacobi.iterations=6"), given(3)
    entry = lowered.programs[0].entry
    (together,) = run(lowered, entry, batch)
    for i in range(3):
        (alone,) = run(lowered, entry, {key: array[i : i + 1] for key, array in batch.items()})
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-9)
    whole = lowered_video("sampler.jacobi.threshold=0", "sampler.jacobi.iterations=6")
    (other,) = run(whole, entry, batch)
    assert 0 < np.abs(other - together).max() < 0.2  # the threshold ends some blocks


@pytest.mark.parametrize("guided", [True, False])
def test_a_video_continues_behind_given_frames(guided: bool) -> None:
    """Without guidance its latent is that of the frames, then z; under guidance Jacobi iterations find the same."""
    guidance, batch = "{scale: 2}" if guided else "null", given(2)
    solver = f"kind: starflow_inverse, guidance: {guidance}, given: {{frames: 2, noise: 0.5}}"
    lowered = lowered_video(f"sampler={{{solver}}}")
    batch |= {"given": batch["x"][:, :, :2], "given_noise": batch["noise"][:, :, :2], "z": batch["z"][:, 12:]}
    (found,) = run(lowered, "extend.6", batch)
    frames = batch["given"] + 0.5 * batch["given_noise"]
    np.testing.assert_allclose(found[:, :, :2], frames, atol=1e-9)
    assert np.abs(frames).max() > 0.1 and np.abs(found[:, :, 2:] - batch["x"][:, :, 2:]).max() > 0.1
    if not guided:
        z, _ = Interpreter(lowered.module, weights_of(lowered)).run("main.forward", found, *(batch[k] for k in TEXT))
        np.testing.assert_allclose(z[:, 12:], batch["z"], atol=1e-9)
    for block, later in ((3, 6), (4, 5)):
        jacobi = f"jacobi: {{block: {block}, later: {later}, iterations: {later + 1}, threshold: 0}}"
        (again,) = run(lowered_video(f"sampler={{{solver}, {jacobi}}}"), "extend.6", batch)
        np.testing.assert_allclose(again, found, atol=1e-9)
    other = {**batch, "given": batch["given"] + 0.5}
    assert np.abs(run(lowered, "extend.6", other)[0] - found)[:, :, 2].max() > 1e-3


def test_a_window_that_moves_over_the_frames() -> None:
    """Frames behind the first window are those of a video that begins with the frames before them."""
    solver = "block: 6, later: 12, iterations: 12, threshold: 0"  # exact
    moving = lowered_video(f"sampler={{kind: starflow_inverse, jacobi: {{{solver}, window: 2}}}}")
    pair = lowered_video(
        "data.fields.x.shape=[1, 2, 4, 6]", f"sampler={{kind: starflow_inverse, jacobi: {{{solver}}}}}"
    )
    weights, batch = weights_of(moving), given(2)
    told = batch["text"], batch["text_mask"]
    (found,) = Interpreter(moving.module, weights).run("main.inverse", batch["z"], *told)
    # The same weights; tables of rotary positions end earlier.
    main = Interpreter(pair.module, {path: weights[path][: len(own)] for path, own in weights_of(pair).items()})
    (first,) = main.run("main.inverse", batch["z"][:, :12], *told)
    np.testing.assert_allclose(found[:, :, :2], first, atol=1e-9)
    # The latents of the second frame under those weights, then the third frame's as the second of a pair.
    before, _ = main.run("main.forward", np.concatenate([found[:, :, 1:2], found[:, :, 2:]], axis=2), *told)
    latents = np.concatenate([before[:, :6], batch["z"][:, 12:]], axis=1)
    (again,) = main.run("main.inverse", latents, *told)
    np.testing.assert_allclose(found[:, :, 1:], again, atol=1e-9)
    whole = lowered_video(f"sampler={{kind: starflow_inverse, jacobi: {{{solver}}}}}")
    (other,) = Interpreter(whole.module, weights).run("main.inverse", batch["z"], *told)
    assert np.abs(other - found)[:, :, 2].max() > 1e-3


def test_blocks_behind_the_first_frame_need_one_iteration_more() -> None:
    """They first see what the frame before saw, so that their first token is found in the second iteration."""
    batch = given(2)
    main = lowered_video("sampler={kind: starflow_inverse}")
    told = batch["text"], batch["text_mask"]
    (one_by_one,) = Interpreter(main.module, weights_of(main)).run("main.inverse", batch["z"], *told)
    far = []
    for iterations in (6, 7):
        solver = f"{{kind: starflow_inverse, jacobi: {{block: 6, iterations: {iterations}, threshold: 0}}}}"
        lowered = lowered_video(f"sampler={solver}")
        (found,) = Interpreter(lowered.module, weights_of(lowered)).run("main.inverse", batch["z"], *told)
        far.append(np.abs(found - one_by_one).max())
    assert far[0] > 1e-9 > 1e-10 > far[1]


def test_the_denoiser_learns_the_gradient_of_the_density() -> None:
    lowered, batch = lowered_video(), given(2)
    loss, bits, denoising = run(lowered, "loss.terms", batch)
    plain = lowered_video("objective={kind: log_likelihood, std: 0.5}", "train.optimizers={}")
    np.testing.assert_allclose(run(plain, "loss.terms", batch), [loss - denoising, bits], rtol=1e-6)
    x = batch["x"] + 0.5 * batch["noise"]
    own = {**batch, "x": x}
    estimator = Interpreter(lowered.module, weights_of(lowered, "denoiser"))
    (noise,) = estimator.run("denoiser.forward", x, batch["text"], batch["text_mask"])
    main, score, step = Interpreter(lowered.module, weights_of(lowered)), np.zeros_like(x), 1e-5

    def log_p(at: np.ndarray) -> np.ndarray:
        z, log_det = main.run("main.forward", at, own["text"], own["text_mask"])
        return np.asarray(-0.5 * (z**2).sum((1, 2)) + log_det * z[0].size)

    for place in np.ndindex(*x.shape[1:]):
        up, down = x.copy(), x.copy()
        up[:, *place] += step
        down[:, *place] -= step
        score[:, *place] = (log_p(up) - log_p(down)) / (2 * step)
    error = noise / 0.5 + 0.5 * score
    np.testing.assert_allclose(denoising, (error**2).mean((1, 2, 3, 4)), rtol=1e-5)


def test_files_of_a_project_define_what_they_call() -> None:
    """The loss of the denoiser and the program `log_likelihood` call the same function."""
    files = project_files(lowered_video(), load_spec("starflow_v", None, [*SIZES]))
    for name in ("objective.py", "sampler.py"):
        text = files[name]
        assert isinstance(text, str) and text.count("def log_density(") == 1 and text.count("log_density(") > 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("networks.main.conditioned_flows=all", "only the last flow sees the whole video"),
        ("networks.main.start_token=false", "Jacobi iterations need a start token"),
        ("networks.main.positions={kind: rope_2d}", "`rope_2d` has no positions for a video"),
        ("sampler.denoise=0.5", "the sample is denoised once"),
        ("sampler.jacobi={block: 6, iterations: 8}", "8 iterations are too many: 7 always find all"),
        ("sampler.jacobi={block: 6, later: 3, iterations: 7}", "7 iterations are too many: 6 always find all"),
        ("sampler.given={frames: 3}", "3 frames are given, but videos have 3"),
        ("sampler={kind: starflow_inverse, jacobi: {window: 2}, given: {frames: 3}}", "3 frames are given, but videos"),
        ("sampler.jacobi.context=2", "`context` (2) must be smaller than `window` (not set)"),
        ("objective.noise=uniform", "a denoiser learns to remove Gaussian noise"),
        ("networks.denoiser.block.mixer.causal=true", "every token of a frame sees every other"),
        ("networks.denoiser.patch=4", "patches of 4 do not tile a side of 6"),
    ],
)
def test_what_videos_cannot_have(option: str, message: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("starflow_v", None, [*SIZES, option])
    assert any(message in d.message for d in caught.value.diagnostics), [d.message for d in caught.value.diagnostics]
