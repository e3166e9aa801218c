"""A spec with a soft label, a vector, a map and tokens: the same request through every door gives the same samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import python
from google.protobuf import text_format
from test_bundle import stored_weights
from test_triton import Server
from tritonclient.grpc import model_config_pb2

import latentc_runtime
from latentc import api
from latentc.cli import run as cli
from latentc.lower import lower
from latentc.measure.execute import sampler_inputs
from latentc.spec import load_spec

SPEC = """\
latentc: 1
name: told
data:
  kind: npz
  path: data.npz
  fields:
    x: {shape: [1, 8, 8]}
    y: {classes: 3}
    style: {shape: [6]}
    sketch: {shape: [2, 8, 8]}
    text: {shape: [5], classes: 11}
    text_mask: {shape: [5], dtype: bool}
backbone:
  kind: patch_transformer
  width: 16
  depth: 1
  patch: 4
  positions: {kind: sincos_2d}
  block:
    mixer: {kind: attention, heads: 2}
    feed_forward: {kind: gelu_mlp, ratio: 2}
    norm: {kind: layer_norm}
    condition: {kind: adaln_zero}
conditioning:
  class: {kind: label, encoding: one_hot, null_embedding: zeros}
  style: {kind: vector, dropout: 0.2, default: 0.0}
  sketch: {kind: map, dropout: 0.2}
  time: {kind: timestep, frequencies: 16}
objective: {kind: diffusion}
sampler: {kind: ddpm, steps: 2, guidance: {scale: 2.0}}
"""
UNCONDITIONAL = "\n".join(
    line
    for line in SPEC.replace(", guidance: {scale: 2.0}", "").splitlines()
    if not line.startswith(("    y:", "  class:", "  style:", "  sketch:"))
)
RNG = np.random.default_rng(0)
SKETCH = RNG.standard_normal((2, 2, 8, 8)).astype(np.float32)
STYLE = RNG.standard_normal(6).astype(np.float32)


def made(folder: Path, text: str) -> tuple[Path, Path, Path]:
    """Spec, weights and bundle of a small model with random weights."""
    spec, weights, bundle = folder / "spec.yaml", folder / "w.safetensors", folder / "bundle"
    spec.write_text(text, encoding="utf-8")
    stored_weights(lower(load_spec(spec)), folder)
    api.compile(spec, weights, bundle)
    return spec, weights, bundle


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return made(tmp_path_factory.mktemp("told"), SPEC)


def runtime_samples(bundle: Path, **changes: Any) -> np.ndarray:
    pipe = latentc_runtime.load(bundle, device="cpu")
    given = {"class": [0, 2], "sketch": SKETCH, "style": STYLE}
    return pipe.sample(**{"seeds": [5, 6], "conditions": given, "guidance": 1.5, **changes})


def near(got: np.ndarray, want: np.ndarray) -> None:
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_the_command_line_and_the_project_give_the_runtimes_samples(
    told: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, weights, bundle = told
    np.save(tmp_path / "sketch.npy", SKETCH)
    np.savez(tmp_path / "style.npz", style=STYLE)
    given = [f"--given=sketch={tmp_path}/sketch.npy", f"--given=style={tmp_path}/style.npz"]
    flags = ["--class=0,2", "--per-class=1", "--seed=5", "--setting=guidance=1.5", *given]
    want = runtime_samples(bundle)
    assert cli(["sample", str(bundle), *flags, "--device=cpu", "--raw", str(tmp_path / "cli.npz")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "cli.npz")["samples"], want)
    project = tmp_path / "project"
    api.emit(spec, project)
    line = ["sample.py", "--weights", str(weights), *flags, "--raw", str(tmp_path / "project.npz")]
    done = python(project, *line, env={"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "project.npz")
    near(found["samples"], want)
    np.testing.assert_array_equal(found["class"], np.eye(3)[[0, 2]])
    refused = python(project, *line[:3], "--class=0", env={"PYTHONPATH": ""})
    assert refused.returncode == 1 and "the condition `sketch` is missing" in refused.stderr
    refused = python(project, *line[:-2], "--guidance=2", env={"PYTHONPATH": ""})
    assert refused.returncode == 1 and "`guidance` is given twice" in refused.stderr
    # Control: every condition and setting counts.
    for change in (
        {"conditions": {"class": [0, 1], "sketch": SKETCH, "style": STYLE}},
        {"conditions": {"class": [0, 2], "sketch": SKETCH}},
        {"conditions": {"class": [0, 2], "sketch": SKETCH[::-1], "style": STYLE}},
        {"guidance": 2.0},
    ):
        assert np.abs(runtime_samples(bundle, **change) - want).max() > 1e-3 * np.abs(want).max()


@pytest.mark.parametrize("kind", ["sampler", "ensemble"])
def test_triton_takes_the_same_request(
    told: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    bundle = told[2]
    deployed = api.deploy_triton(bundle, tmp_path / "repo", kind=kind)  # type: ignore[arg-type]
    config = text_format.Parse(
        (tmp_path / "repo" / deployed.model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig()
    )
    declared = {i.name: (list(i.dims), i.optional) for i in config.input}
    assert declared == {
        "classes": ([3], False),
        "style": ([6], True),
        "sketch": ([2, 8, 8], False),
        "seeds": ([1], False),
        "guidance": ([1], True),
    }
    first = {
        "classes": np.eye(3, dtype=np.float32)[[0, 2]],
        "style": np.stack([STYLE] * 2),
        "sketch": SKETCH,
        "seeds": np.array([[5], [6]], np.uint64),
        "guidance": np.full((2, 1), 1.5, np.float32),
    }
    second = {"classes": np.eye(3, dtype=np.float32)[[1]], "sketch": SKETCH[:1], "seeds": np.array([[7]], np.uint64)}
    soft = {**second, "classes": np.full((1, 3), 0.5, np.float32)}
    answers = Server(tmp_path / "repo", monkeypatch).infer(deployed.model, [first, soft, second])
    near(answers[0]["samples"], runtime_samples(bundle))
    assert "not a probability distribution" in str(answers[1])
    want = latentc_runtime.load(bundle, device="cpu").sample([1], 7, conditions={"sketch": SKETCH[0]})
    near(answers[2]["samples"], want)


def test_triton_takes_sequences_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "runtime"))
    import test_runtime_conditions as tiny

    bundle = tiny.bundle(tmp_path / "bundle")
    deployed = api.deploy_triton(bundle, tmp_path / "repo", program="sample", name="tiny")
    config = text_format.Parse((tmp_path / "repo/tiny/config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    declared = {i.name: (list(i.dims), i.optional) for i in config.input}
    assert declared["text"] == ([-1], False) and declared["text_mask"] == ([-1], True)
    assert declared["strength"] == declared["temperature"] == ([1], True) and declared["augment"] == ([2], True)
    assert [o.name for o in config.output] == ["samples", "lengths"]

    def request(text: list[int], mask: list[bool] | None = None) -> dict[str, np.ndarray]:
        given = {"classes": np.eye(3, dtype=np.float32)[[1]], "mel": tiny.MEL[:1], "text": np.array([text])}
        given |= {} if mask is None else {"text_mask": np.array([mask])}
        return {**given, "seeds": np.array([[9]], np.uint64), "temperature": np.full((1, 1), 0.9, np.float32)}

    requests = [request([1, 2]), request([1, 2, 3, 4, 5], [True] * 4 + [False]), request([10]), request([3])]
    answers = Server(tmp_path / "repo", monkeypatch).infer(deployed.model, requests)
    pipe = latentc_runtime.load(bundle, device="cpu")
    asked = {"classes": [1], "seeds": [9], "settings": {"temperature": 0.9}}
    texts = ([1, 2], {"value": [1, 2, 3, 4, 5], "mask": [1, 1, 1, 1, 0]}, None, [3])
    for answer, text in zip(answers, texts, strict=True):
        if text is None:
            assert "no token 10" in str(answer)
            continue
        np.testing.assert_array_equal(
            answer["samples"], pipe.sample(**asked, conditions={"mel": tiny.MEL[0], "text": text})
        )
    assert [int(answers[i]["lengths"].item()) for i in (0, 1, 3)] == [2, 4, 1]


def test_verification_draws_conditions_by_itself(told: tuple[Path, Path, Path]) -> None:
    report = api.verify(told[2])
    assert report.ok, report.text()
    assert latentc_runtime.load(told[2], device="cpu").usual_request(2).given.conditions["sketch"].std() > 0.5


def test_a_model_without_conditions(tmp_path: Path) -> None:
    spec, weights, bundle = made(tmp_path, UNCONDITIONAL)
    flags = ["--count=3", "--seed=4"]
    assert cli(["sample", str(bundle), *flags, "--device=cpu", "--raw", str(tmp_path / "a.npz")]) == 0
    samples = np.load(tmp_path / "a.npz")["samples"]
    np.testing.assert_array_equal(samples, latentc_runtime.load(bundle, device="cpu").sample(seeds=[4, 5, 6]))
    assert len(samples) == 3
    api.emit(spec, tmp_path / "project")
    line = ["sample.py", "--weights", str(weights), *flags, "--raw", "b.npz"]
    done = python(tmp_path / "project", *line, env={"PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr
    near(np.load(tmp_path / "project/b.npz")["samples"], samples)
    assert api.verify(bundle).ok


def test_calibration_draws_truncated_noise() -> None:
    low = lower(load_spec("digits_biggan", None, ["sampler.truncation=0.5"]))
    z = sampler_inputs(low, low.programs[0], [1, 2, 3], 0)["z"]
    assert 0.3 < np.abs(z).max() <= 0.5
