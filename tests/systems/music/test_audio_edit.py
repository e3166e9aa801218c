"""Programs that edit a clip: each against its steps written out, in every form, and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import weights_of

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify
from latentc_runtime.errors import BundleError

sys.path.insert(0, str(Path(__file__).parents[2] / "serve"))
from served import served

SIZES = ("data.fields.x={shape: [2, 16], medium: audio, rate: 4}", "backbone.widths=[4, 4]", "backbone.factors=[1, 2]")
SIZES += ("backbone.blocks=[1, 1]", "backbone.attention=[1]", "backbone.heads=2", "backbone.head_width=2")
SIZES += ("backbone.groups=2", "backbone.embedding=4", "conditioning.time.frequencies=4")
SIZES += ("sampler={kind: ddim, timesteps: [1.0, 0.75, 0.5, 0.25]}",)
RNG = np.random.default_rng(3)


def edited(**settings: Any) -> tuple[str, ...]:
    text = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return (*SIZES, f"programs=[{{kind: audio_edit, {text}}}]" if text else "programs=[{kind: audio_edit}]")


def gradient(f: Any, at: np.ndarray) -> np.ndarray:
    """By central differences."""
    found = np.zeros_like(at)
    for k in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[k] = 1e-5
        found[k] = (f(at + step) - f(at - step)) / 2e-5
    return found


# Of 16 samples, 4 per second: [5, 10) is 1.25 s to 2.5 s.
KEPT = {"infill": (5, 10), "continuation": (5, 16), "regeneration": (5, 10), "transition": (5, 10)}


@pytest.mark.parametrize(
    ("task", "normalised"), [("continuation", True), ("infill", False), ("regeneration", True), ("transition", True)]
)
def test_steps_follow_the_error_of_what_is_kept(task: str, normalised: bool) -> None:
    """DDIM in the angle of the noise, its predicted noise changed by the gradient of the error, by differences."""
    text = str(normalised).lower()
    lowered = lower(load_spec("music", None, edited(tasks=f"[{task}]", normalised=text, strength=0.5)))
    oracle = Interpreter(lowered.module, weights_of(lowered, 0.3, 1))
    program = next(p for p in lowered.programs if p.name == task)
    start, stop = KEPT[task]
    x, audio, later = (RNG.standard_normal((2, 2, 16)) for _ in range(3))
    scale = np.array([0.7, 0.2])
    given = {"x": x, "audio": audio, "next": later, "reconstruction": scale}
    given |= {"start": np.full(2, start / 4), "stop": np.full(2, stop / 4)}
    inputs = [v.name for v in lowered.module.entry(program.entry).inputs]
    (ours,) = oracle.run(program.entry, *(given[name] for name in inputs))
    assert set(inputs) == {*given} - ({"next"} if task != "transition" else set()) - (
        {"stop"} if task == "continuation" else set()
    )
    place = np.arange(16)
    keep, known = (place < start) | (place >= stop), audio
    if task == "transition":
        angle = np.clip((place + 0.5 - start) / (stop - start), 0, 1) * np.pi / 2
        known = audio * np.cos(angle) + later * np.sin(angle)
        assert np.array_equal(known[..., :start], audio[..., :start])
        assert np.allclose(known[..., stop:], later[..., stop:])
    noised = task in ("regeneration", "transition")
    times = np.linspace(1, 0, 5)[2 * noised :]  # half of the way is left to the noised clips
    forward = lowered.networks["main"].methods["forward"].function
    for i in range(2):
        state = x[i]
        if noised:
            state = np.cos(np.pi / 4) * known[i] + np.sin(np.pi / 4) * x[i]
        for t, after in pairwise(times):
            alpha, sigma = np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)

            def data(s: np.ndarray, t: float = t, alpha: float = alpha, sigma: float = sigma) -> np.ndarray:
                out = np.asarray(oracle.run(forward, s[None], np.array([t]), prefix="main")[0][0])
                return alpha * s - sigma * out

            def loss(s: np.ndarray, i: int = i, data: Any = data) -> float:
                return float(((keep * (data(s) - known[i])) ** 2).sum()) / 2

            x0 = data(state)
            noise = (state - alpha * x0) / sigma
            if t < 1.0:  # pure noise says nothing about the data
                g = gradient(loss, state)
                size = np.sqrt((g**2).mean()) if normalised else 1 / sigma
                noise = noise + scale[i] * g / size
                x0 = (state - sigma * noise) / alpha
            state = np.cos(after * np.pi / 2) * x0 + np.sin(after * np.pi / 2) * noise
        assert np.abs(ours[i] - state).max() < 1e-5 * np.abs(state).max(), task


def test_every_form_and_engine_agrees(tmp_path: Path) -> None:
    """With a guided class as well: guidance terms of different kinds add up."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    more = ("data.fields.y={classes: 3}", "conditioning.class={kind: label}", "sampler.guidance={scale: 2.0}")
    for form in ("loop", "host", "unroll"):
        tasks = {"loop": "[continuation, transition]", "host": "[infill]", "unroll": "[regeneration]"}[form]
        bundle = tiny_bundle("music", tmp_path / form, (*edited(tasks=tasks), *more, f"target.form={form}"))
        report = verify(bundle)
        assert report.ok, report.text()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.fields.x={shape: [2, 16]}"], "program `audio_edit` edits sounds [channel, time]"),
        (["programs=[{kind: audio_edit, tasks: [infill, infill]}]"], "a task is named twice"),
        (
            ["data.fields.y={classes: 3}", "conditioning.keep={kind: label, field: y}"],
            "`keep` is a condition of the spec",
        ),
        (["sampler={kind: ddim, timesteps: [1.0]}"], "no step of `ddim` is guided"),
        (["programs=[{kind: audio_edit, interval: [0.5, 0.4]}]"], "the interval ends before it starts"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        lower(load_spec("music", None, [*SIZES, *overrides]))
    assert said in str(error.value), error.value


def test_what_is_drawn_ends_after_it_starts(tmp_path: Path) -> None:
    """By the runtime, the command line, a server and the project; a continuation takes no end."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    bundle = tiny_bundle("music", tmp_path / "bundle", edited(tasks="[infill, continuation]"))
    pipe = latentc_runtime.load(bundle, "cpu")
    clip, said = np.zeros((2, 16), np.float32), "`stop` 1 is not greater than `start` 2"
    np.save(tmp_path / "clip.npy", clip)

    def sample(program: str, **settings: Any) -> Any:
        return pipe.sample(program=program, conditions={"audio": clip}, settings=settings, count=2)

    with pytest.raises(BundleError, match=said) as caught:
        sample("infill", start=[0.5, 2.0], stop=1.0)
    assert caught.value.code == "E0608" and "greater than `start`" in caught.value.help
    with pytest.raises(BundleError, match=r"`stop` 1\.5 is not greater than `start` 1.5"):
        sample("infill", start=1.5, stop=1.5)
    with pytest.raises(BundleError, match=r"`stop` 2\.66667 is not greater than `start` 3"):
        sample("infill", start=3.0)  # with the default end
    assert np.isfinite(sample("infill", start=2.0, stop=[2.5, 3.0])).all()
    assert np.isfinite(sample("continuation", start=3.0)).all()
    asked = ["--given", f"audio={tmp_path / 'clip.npy'}", "--setting", "start=2", "--setting", "stop=1"]
    command = [
        sys.executable,
        "-m",
        "latentc",
        "sample",
        str(bundle),
        "--program",
        "infill",
        "--raw",
        "out.npz",
        *asked,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    body = {"program": "infill", "conditions": {"audio": clip.tolist()}, "settings": {"start": 2, "stop": 1}}
    with served(bundle) as (web, _):
        answer = web.post("/v1/models/music/sample", json=body)
    assert answer.status_code == 400 and said in answer.text
    spec = load_spec("music", None, edited(tasks="[infill]"))
    files = project_files(lower(spec), spec)
    assert 'above="start"' in str(files["sampler.py"]) and "checked_given" in str(files["sample.py"])


@pytest.mark.parametrize(("shape", "said"), [("[2, 8]", "`known` is not an array of shape [2, 16]"), (None, "no such")])
def test_the_score_alone_needs_its_conditions(shape: str | None, said: str) -> None:
    """It also guides a sampler itself, by conditions of the spec."""
    conditions = ["data.fields.known={shape: SHAPE}", "data.fields.keep={shape: [1, 16]}", "backbone.conditions=[]"]
    conditions += [f"conditioning.{name}={{kind: array}}" for name in ("known", "keep")]
    given = [*SIZES, "programs=[]", "sampler.guidance={kind: score, score: {kind: reconstruction}}"]
    fits = [*given, *(text.replace("SHAPE", "[2, 16]") for text in conditions)]
    lowered = lower(load_spec("music", None, fits))
    assert {"known", "keep", "score_scale"} <= {v.name for v in lowered.module.entry(lowered.programs[0].entry).inputs}
    wrong = [*given, *(text.replace("SHAPE", shape or "") for text in conditions if shape)]
    with pytest.raises(DiagnosticError) as error:
        load_spec("music", None, wrong)
    assert said in str(error.value), error.value


STAGE = """
latentc: 1
name: stage
extends: music_autoencoder
data: {fields: {x: {shape: [2, 32], rate: 8}}}
backbone: {widths: [4, 4], factors: [1, 2], blocks: [1, 1], channels: 2, groups: 2}
"""


def test_clips_are_encoded_where_latents_are_drawn(tmp_path: Path) -> None:
    """As the program over latents of clips that the autoencoder encoded before, then decoded."""
    (tmp_path / "stage.yaml").write_text(STAGE, encoding="utf-8")
    sizes = [*edited(tasks="[infill]")[1:], "data.fields.x.shape=[2, 16]"]
    stage = f"spec: {tmp_path / 'stage.yaml'}, shift: 0.1, scale: [2.0, 3.0]"
    given = {"x": RNG.standard_normal((1, 2, 16)), "start": [1.25], "stop": [2.5], "reconstruction": [0.7]}
    whole, bare = (
        lower(load_spec("music_latent", None, [*sizes, f"data.first_stage={{{stage}, {more}}}"]))
        for more in ("weights: stage.safetensors", "weights: null")
    )
    weights = weights_of(whole, 0.3, 1)
    program, alone = whole.programs[1], bare.programs[1]
    (clip,) = program.conditions
    assert (clip.shape, clip.axes, program.settings[-1].high) == ((2, 32), ("channel", "time"), 4.0)
    assert [one.shape for one in alone.conditions] == [(2, 16)], "without the autoencoder's weights, latents"
    oracle, audio = Interpreter(whole.module, weights), RNG.standard_normal((1, 2, 32))
    stages, scale = whole.networks["first_stage"].methods, np.array([2.0, 3.0])[:, None]
    (codes,) = oracle.run(stages["encode"].function, audio, prefix="first_stage")
    given["audio"] = (np.asarray(codes)[:, :2] - 0.1) * scale
    inputs = bare.module.entry(alone.entry).inputs
    (drawn,) = Interpreter(bare.module, weights).run(alone.entry, *(np.asarray(given[v.name]) for v in inputs))
    (wanted,) = oracle.run(stages["decode"].function, np.asarray(drawn) / scale + 0.1, prefix="first_stage")
    given["audio"] = audio
    inputs = whole.module.entry(program.entry).inputs
    (found,) = oracle.run(program.entry, *(np.asarray(given[v.name]) for v in inputs))
    assert np.abs(np.asarray(found) - wanted).max() < 1e-9 * np.abs(wanted).max()
