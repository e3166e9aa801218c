"""Two processes train as one: DDP and FSDP2 come to the weights that one process computes from the rows of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from forked_training import trained
from safetensors.numpy import load_file
from tiny_systems import SYSTEMS

from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec

pytestmark = pytest.mark.slow

# One per kind of network; DiffWave and DP3 in test_audio_and_policies.py, adversarial players in test_train_gans.py.
CHOSEN = ("improved_mean_flow", "edm-vp", "edm2", "maskgit-halton", "mar", "vq_f16", "vfmtok_tokenizer")
MODES = {"none": 1, "ddp": 2, "fsdp": 2}
OF = {name: ("none", ("ddp", "fsdp")[number % 2]) for number, name in enumerate(CHOSEN)}  # in turn
OF["mar"] = OF["vfmtok_tokenizer"] = tuple(MODES)
# SGD, because Adam makes full steps of gradients that are rounding errors.
TRAIN = ("train.batch_size=8", "train.workers=0", "train.schedule.warmup=0", "train.optimizers={}", "train.ema=0.9")
TRAIN += ("train.optimizer={kind: sgd, lr: 0.1}", "train.precision=fp32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the projects of all systems, each trained in every mode."""
    folder, jobs = tmp_path_factory.mktemp("parallel"), []
    for name in CHOSEN:
        system = SYSTEMS[name]
        spec = load_spec(system.spec, system.variant, [*system.sizes, *TRAIN])
        project_from_lowered(lower(spec), spec, folder / name)
        if spec.data.kind == "npz":
            x = np.random.default_rng(0).uniform(-1, 1, (32, *spec.data.shape))
            np.savez(folder / name / "train.npz", x=np.float32(x))
        for mode in OF[name]:
            processes = MODES[mode]
            flags = ["--steps", "2", "--parallel", mode, "--accumulate", str(2 // processes), "--out", mode]
            jobs.append({"folder": str(folder / name), "name": mode, "processes": processes, "flags": flags})
    failed = trained(jobs)
    assert not failed, failed
    return folder


@pytest.mark.parametrize("name", CHOSEN)
def test_two_processes_are_as_one(name: str, runs: Path) -> None:
    one, *others = (load_file(runs / name / mode / "weights_raw.safetensors") for mode in OF[name])
    for mode, other in zip(OF[name][1:], others, strict=True):
        assert one.keys() == other.keys()
        for path, value in one.items():
            assert np.allclose(other[path], value, rtol=1e-5, atol=1e-6), (mode, path)


def test_frozen_weights_stay(runs: Path) -> None:
    """Only weights that never moved are equal to their average."""
    for mode in OF["vfmtok_tokenizer"]:
        last, average = (
            load_file(runs / "vfmtok_tokenizer" / mode / f"weights{end}.safetensors") for end in ("_raw", "")
        )
        stayed = {name for name, value in last.items() if np.array_equal(value, average[name])}
        frozen = {name for name in last if name.startswith("vision.")}
        assert frozen and frozen <= stayed and "regions.0.fc1.weight" not in stayed, mode
