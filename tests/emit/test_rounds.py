"""Training in rounds: who teaches whom, and that a run killed at or between rounds ends in the same bits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import SHORT, TINY, refused, run, same, two_processes

from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import materialise
from latentc.weights.distributed import read_parts

pytestmark = pytest.mark.slow

TEACHER = ["--roles.teacher.pretrained", "teacher.safetensors"]
FLAGS = [*SHORT, *TEACHER, "--steps", "9", "--checkpoint_every", "3", "--schedule.warmup", "1"]
OVERRIDES = [text.replace("backbone", "networks.main") for text in TINY["digits_dit"]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds of three steps, with a checkpoint at the end of each, taught by a guided student."""
    folder = tmp_path_factory.mktemp("rounds")
    for name, more in (("digits_guided", []), ("digits_distilled", ["objective.rounds=[8, 4, 2]", "sampler.steps=2"])):
        spec = load_spec(name, overrides=[*OVERRIDES, *more])
        project_from_lowered(lower(spec), spec, folder / name)
    plain = load_spec("digits_dit", overrides=TINY["digits_dit"])
    project_from_lowered(lower(plain), plain, folder / "digits_dit")
    run(folder / "digits_dit", "train.py", *SHORT, "--steps", "4")
    weights = "runs/train/weights.safetensors"
    shutil.copy(folder / "digits_dit" / weights, folder / "digits_guided" / "teacher.safetensors")
    run(folder / "digits_guided", "train.py", *SHORT, *TEACHER, "--steps", "4", "--parallel", "none")
    shutil.copy(folder / "digits_guided" / weights, folder / "digits_distilled" / "teacher.safetensors")
    said = run(folder / "digits_distilled", "train.py", *FLAGS)
    assert "round 2 of 3" in said and "round 3 of 3" in said
    return folder / "digits_distilled"


def stored(held: Path, kind: str) -> dict[str, torch.Tensor]:
    """The tensors of a kind, from one file or from the parts that the processes of FSDP wrote."""
    if (file := held / f"{kind}.safetensors").is_file():
        return load_file(file)
    parts = read_parts(sorted((held / kind).iterdir()))
    return {name: torch.from_numpy(materialise(expr).copy()) for name, expr in parts.items()}


def checkpoint(folder: Path, step: int) -> dict[str, Any]:
    """{network: tensors} of the networks and the averages, and the tensors of the optimisers."""
    held = folder / f"checkpoints/step-{step:08d}"
    networks = stored(held, "networks")
    return {
        "networks": {name: under(networks, name) for name in ("main", "teacher")},
        "averages": {"main": stored(held, "averages")},
        "optimizers": stored(held, "optimizers"),
    }


def under(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_averaged_student_is_the_next_teacher(project: Path) -> None:
    made = {step: checkpoint(project / "runs/train", step) for step in (3, 6, 9)}
    assert equal(made[3]["networks"]["teacher"], load_file(project / "teacher.safetensors"))
    assert equal(made[6]["networks"]["teacher"], made[3]["averages"]["main"])
    assert equal(made[9]["networks"]["teacher"], made[6]["averages"]["main"])
    assert not equal(made[9]["networks"]["teacher"], made[9]["averages"]["main"])
    # Optimisers begin anew: three steps each.
    steps = [v for c in made.values() for name, v in c["optimizers"].items() if name.endswith("/step")]
    assert steps and {int(step) for step in steps} == {3}


def test_the_student_of_guidance_starts_as_its_teacher(project: Path) -> None:
    folder = project.parent / "digits_guided"
    run(folder, "train.py", *SHORT, *TEACHER, "--steps", "1", "--out", "runs/still", "--optimizer.lr", "0.0")
    teacher, student = (load_file(folder / name) for name in ("teacher.safetensors", "runs/still/weights.safetensors"))
    assert equal(teacher, {key: student[key] for key in teacher})
    assert {key.split(".")[0] for key in student.keys() - teacher.keys()} == {"guidance_embedder"}


@pytest.mark.parametrize("last", [3, 6])
def test_a_run_resumed_between_rounds_is_bit_equal(project: Path, last: int) -> None:
    out = project / f"runs/from{last}"
    shutil.copytree(project / "runs/train", out)
    flags = [
        flag.replace("teacher.safetensors", "gone.safetensors") for flag in FLAGS
    ]  # the checkpoint has the teacher
    (out / "weights.safetensors").unlink()
    for step in range(last + 3, 10, 3):
        shutil.rmtree(out / f"checkpoints/step-{step:08d}")
    said = run(project, "train.py", *flags, "--out", f"runs/from{last}", "--resume", "true")
    assert "resumed" in said and 'gone.safetensors" is not read: the checkpoint contains the network' in said
    same(project / "runs/train", out)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_teach_and_resume_bit_equal(project: Path, parallel: str) -> None:
    out = project / f"runs/{parallel}"
    flags = [*FLAGS, "--parallel", parallel, "--sample_every", "6"]
    two_processes(project, *flags, "--out", f"runs/{parallel}")
    made = {step: checkpoint(out, step) for step in (3, 6, 9)}
    assert equal(made[3]["networks"]["teacher"], load_file(project / "teacher.safetensors"))
    assert equal(made[6]["networks"]["teacher"], made[3]["averages"]["main"])
    shutil.copytree(out, project / f"runs/{parallel}2")
    for step in (6, 9):
        shutil.rmtree(project / f"runs/{parallel}2/checkpoints/step-{step:08d}")
    two_processes(project, *flags, "--out", f"runs/{parallel}2", "--resume", "true")
    same(out, project / f"runs/{parallel}2")


def test_what_training_refuses(project: Path) -> None:
    new = ["--out", "runs/refused"]
    refused(project, "train.py", [*TEACHER, *new, "--steps", "2"], "2 is too few: each of 3 rounds needs a step")
    refused(project, "train.py", ["--roles.teacher.pretrained", "none", *new], f"there is no file {project / 'none'}")
    again = ["--out", "runs/train", "--resume", "true", *TEACHER, *SHORT]
    refused(project, "train.py", [*again, "--steps", "12"], "not 12: its rounds are equal parts of all steps")
