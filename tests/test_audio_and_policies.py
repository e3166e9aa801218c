"""DiffWave and DP3 from data to samples, at tiny sizes: trained, compiled, verified, sampled under their conditions."""

from __future__ import annotations

import wave
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import python
from safetensors.numpy import load_file

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.emit import model_source
from latentc.ir.core import parameters
from latentc.lower import lower
from latentc.spec import load_spec

TRAIN = ["train.batch_size=16", "train.workers=0", "train.schedule={kind: constant, warmup: 5}", "train.log_every=20"]
TRAIN += ["train.ema=0.7", "train.optimizer.lr=6e-3", "train.sample_every=1000", "train.steps=40"]


def waves(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tones whose pitch a spectrogram, or the class, says."""
    mel, y = rng.uniform(0, 1, (32, 8, 8)), rng.integers(0, 3, 32)
    pitch = 200 + 1000 * (mel.mean((1, 2)) + y)
    x = 0.5 * np.sin(2 * np.pi * pitch[:, None] * np.arange(512) / 16000 + rng.uniform(0, 6, (32, 1)))
    return {"x": x[:, None].astype(np.float32), "mel": mel.astype(np.float32), "y": y}


def actions(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Actions that follow from the mean of the points and the robot's state."""
    points, state = rng.uniform(-1, 1, (64, 2, 24, 3)), rng.uniform(-1, 1, (64, 2, 5))
    aim = points[:, 1].mean(1)[:, None, :2] * np.linspace(0, 6, 4)[:, None] + state[:, :1, :2] / 2
    found = {"x": np.tanh(aim), "point_cloud": points, "agent_pos": state}
    return {name: array.astype(np.float32) for name, array in found.items()}


@dataclass(frozen=True)
class System:
    """A shipped spec at tiny sizes; `given` are its conditions beside the class, by name."""

    spec: str
    data: Any
    sizes: tuple[str, ...]
    given: tuple[str, ...] = ()
    variant: str | None = None
    shape: tuple[int, ...] = (1, 512)
    suffix: str = ".wav"
    label: bool = False


WAVE = ("data.fields.x.shape=[1, 512]", "backbone.width=8", "backbone.depth=4", "backbone.cycle=2")
WAVE += ("backbone.time_width=32",)
MEL = (*WAVE, "data.fields.mel.shape=[8, 8]", "backbone.upsampling=[8, 8]")
SHORT = (*WAVE, "sampler.steps=10")
POLICY = (
    *("train.ema=0.9", "train.optimizer.lr=3e-3", "train.steps=120"),
    "data.fields.x.shape=[4, 2]",
    "data.fields.point_cloud.shape=[2, 24, 3]",
    "data.fields.agent_pos.shape=[2, 5]",
    "networks.main={kind: conditional_unet_1d, widths: [16, 32], time_width: 16, kernel: 3}",
    "networks.encoder={kind: dp3_encoder, widths: [8, 16], features: 8, state_widths: [8, 8]}",
)
SEEN = ("point_cloud", "agent_pos")
SYSTEMS = {
    "diffwave": System("diffwave", waves, MEL, ("mel",)),
    "class": System("diffwave_sc09", waves, (*SHORT, "data.fields.y.classes=3"), variant="class", label=True),
    "unconditional": System("diffwave_sc09", waves, SHORT),
    "dp3": System("dp3", actions, POLICY, SEEN, shape=(4, 2), suffix=".npz"),
}


@dataclass(frozen=True)
class Made:
    system: System
    sizes: list[str]
    arrays: Mapping[str, np.ndarray]
    project: Path
    bundle: Path
    files: dict[str, Path] = field(default_factory=dict)


def run(folder: Path, *args: str, processes: int = 1) -> str:
    done = python(folder, *args, ranks=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=SYSTEMS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A system whose project was trained by its own train.py, and its bundle."""
    system, folder = SYSTEMS[request.param], tmp_path_factory.mktemp(request.param)
    arrays = system.data(np.random.default_rng(0))
    np.savez(folder / "train.npz", **arrays)
    files = {name: folder / f"{name}.npz" for name in system.given}
    for name, file in files.items():
        np.savez(file, **{name: arrays[name][0]})
    sizes = [*TRAIN, *system.sizes, f"data.path={folder / 'train.npz'}"]
    api.emit(system.spec, folder / "project", system.variant, sizes)
    run(folder / "project", "train.py")
    weights = folder / "project/runs/train/weights.safetensors"
    api.compile(system.spec, weights, folder / "bundle", variant=system.variant, overrides=sizes, run=False)
    return Made(system, sizes, arrays, folder / "project", folder / "bundle", files)


def test_it_fits_its_data(made: Made) -> None:
    """The loss of the trained weights is well below that of fresh ones."""
    system, runs = made.system, made.project / "runs/train"
    lowered = lower(load_spec(system.spec, system.variant, made.sizes))
    (update,) = lowered.updates
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((32, *system.shape))
    t = rng.integers(0, update.draws[0].parameters["high"], 32)
    batch = {name: made.arrays[name][:32] for name in update.batch} | {"t": t, "noise": noise}
    trained = load_file(runs / "weights.safetensors")
    at_rest = 0.8 if system.suffix == ".wav" else float(np.square(batch["x"]).mean())  # of predicting zeros
    options: Any = {"variant": system.variant, "overrides": made.sizes}
    found = api.loss(system.spec, runs / "weights.safetensors", batch, **options)
    assert float(found["loss"]) < 0.7 * at_rest
    assert len(trained) == sum(len(parameters(lowered.module, n.main.function)) for n in lowered.networks.values())
    previews = list((runs / "samples").iterdir())
    assert any(file.suffix == system.suffix for file in previews)


def test_the_bundle_is_the_emitted_sampler(made: Made, tmp_path: Path) -> None:
    """`latentc sample` and sample.py give the same, in a file of the right medium; `verify` agrees."""
    report = api.verify(made.bundle)
    assert report.ok, report
    assert {c.what for c in report.comparisons} >= {"forward", "sampler"}
    raw, out = tmp_path / "raw.npz", tmp_path / f"out{made.system.suffix}"
    given = {name: str(file) for name, file in made.files.items()}
    classes = [1] if made.system.label else None
    api.sample(made.bundle, classes=classes, given=given, seed=5, output=out, raw=raw)
    flags = [flag for name, file in given.items() for flag in ("--given", f"{name}={file}")]
    flags += ["--class", "1", "--per-class", "1"] if made.system.label else ["--count", "1"]
    emitted = tmp_path / "emitted.npz"
    weights = ["--weights", "runs/train/weights.safetensors"]
    python(made.project, "sample.py", *weights, *flags, "--seed", "5", "--raw", str(emitted))
    ours, theirs = np.load(raw)["samples"], np.load(emitted)["samples"]
    assert ours.shape == theirs.shape == (1, *made.system.shape)
    assert np.abs(ours - theirs).max() < 1e-4 * max(1.0, np.abs(ours).max())
    if made.system.suffix == ".wav":
        with wave.open(str(out)) as file:
            rate = load_spec(made.system.spec).data.fields["x"].rate
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (rate, 1, 512)
    else:
        assert np.array_equal(np.load(out)["samples"], ours)


def test_conditions_matter_and_are_asked_for(made: Made, tmp_path: Path) -> None:
    given = {name: made.arrays[name][0] for name in made.system.given}
    if not given:
        return
    first = api.sample(made.bundle, given=given, count=1)
    for name in given:
        rest = {other: array for other, array in given.items() if other != name}
        changed = api.sample(made.bundle, given={**given, name: made.arrays[name][7]}, count=1)
        assert not np.allclose(changed, first)
        for wrong, said in (
            (rest, f"the condition `{name}` is missing"),
            ({**given, name: given[name][..., 1:]}, f"condition `{name}` has shape"),
        ):
            with pytest.raises(DiagnosticError) as error:
                api.sample(made.bundle, given=wrong)
            assert error.value.diagnostics[0].code == "E0608" and said in str(error.value)
    name, *others = given  # sample.py says the same of the first one
    np.save(tmp_path / "wrong.npy", given[name][..., 1:])
    for first_flag in ([], ["--given", f"{name}={tmp_path / 'wrong.npy'}"]):
        flags = [*first_flag, *(flag for other in others for flag in ("--given", f"{other}={made.files[other]}"))]
        done = python(made.project, "sample.py", "--weights", "runs/train/weights.safetensors", *flags)
        assert done.returncode and f"`{name}`" in done.stderr and "Traceback" not in done.stderr


def test_classes_of_samples_without_classes_are_refused(made: Made) -> None:
    if made.system.label:
        return
    given = {name: made.arrays[name][0] for name in made.system.given}
    for classes in ("0", "3", [1]):
        with pytest.raises(DiagnosticError, match=r"E0704.*samples of this program have no class"):
            api.sample(made.bundle, classes=classes, given=given)


@pytest.mark.slow
def test_a_second_network_of_one_loss_has_an_optimiser_of_its_own(tmp_path: Path) -> None:
    """At a rate of almost zero the encoder stays where it started while the U-Net learns."""
    np.savez(tmp_path / "train.npz", **actions(np.random.default_rng(0)))
    optimizer = "train.optimizers.encoder={kind: sgd, lr: 1e-30, momentum: 0.0}"
    sizes = [*TRAIN, *POLICY, f"data.path={tmp_path / 'train.npz'}", optimizer, "train.ema=null"]
    api.emit("dp3", tmp_path / "project", overrides=[*sizes, "train.schedule={kind: constant, warmup: 0}"])
    for steps in ("1", "4"):
        run(tmp_path / "project", "train.py", "--steps", steps, "--sample_every", "9", "--out", f"run{steps}")
    few, many = (load_file(tmp_path / f"project/run{n}/weights_raw.safetensors") for n in ("1", "4"))
    stays = {name: np.allclose(few[name], many[name], rtol=0, atol=1e-20) for name in few}
    assert {name.split(".")[0] for name, still in stays.items() if still} == {"encoder"}
    assert not any(still for name, still in stays.items() if name.startswith("main."))


def test_triton_takes_its_conditions(made: Made, tmp_path: Path) -> None:
    api.deploy_triton(made.bundle, tmp_path / "models", name="model")
    config = (tmp_path / "models/model/config.pbtxt").read_text()
    for name in made.system.given:
        dims = ", ".join(map(str, made.arrays[name].shape[1:]))
        assert f'name: "{name}"\n  data_type: TYPE_FP32\n  dims: [ {dims} ]' in config


@pytest.mark.slow
@pytest.mark.parametrize("made", ["dp3"], indirect=True)  # the others have one network, as those of images
def test_it_trains_on_several_processes(made: Made, tmp_path: Path) -> None:
    """DDP and FSDP give the same weights, of every network."""
    found = {}
    for parallel in ("ddp", "fsdp"):
        out = tmp_path / parallel
        flags = ["--steps", "3", "--parallel", parallel, "--sample_every", "3", "--out", str(out)]
        run(made.project, "train.py", *flags, processes=2)
        found[parallel] = load_file(out / "weights_raw.safetensors")
    ddp, fsdp = found["ddp"], found["fsdp"]
    assert ddp.keys() == fsdp.keys() and all(np.allclose(ddp[name], fsdp[name], atol=1e-4) for name in ddp)


def test_thirty_layers_are_one_class_and_a_loop() -> None:
    source = model_source(lower(load_spec("diffwave")))
    assert source.count("class ResidualLayer") == 1 and len(source.splitlines()) < 130
    assert "dilation=2 ** (i % cycle))" in source and "for residual_layer in self.residual_layers:" in source
