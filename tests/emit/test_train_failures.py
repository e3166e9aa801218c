"""Faults around a training run: damaged checkpoints, full disks, wrong files, missing packages, kills."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from forked import Started, python
from safetensors.torch import load_file
from test_train import SHORT, TINY, environment, run, same, two_processes

from latentc.diagnostics import DiagnosticError
from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import open_weights

pytestmark = pytest.mark.slow

FLAGS = [*SHORT, "--steps", "20", "--checkpoint_every", "10"]
CHECKPOINT = "checkpoints/step-00000020"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failures") / "digits_dit"
    spec = load_spec("digits_dit", overrides=TINY["digits_dit"])
    project_from_lowered(lower(spec), spec, folder)
    run(folder, "train.py", *FLAGS, "--out", "whole")
    return folder


def again(project: Path, out: str) -> Path:
    """A copy of the whole run, without its weights."""
    shutil.copytree(project / "whole", project / out)
    for file in (project / out).glob("*.safetensors"):
        file.unlink()
    return project / out


def refusal(project: Path, *flags: str, script: str = "train.py", before: str = "") -> str:
    """The one line that a script ends with; its status is 1."""
    done = python(project, script, *flags, before=before)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_samples_that_are_not_finite_do_not_end_training(project: Path) -> None:
    flags = [*SHORT, "--steps", "1", "--sample_every", "1", "--schedule.warmup", "0", "--optimizer.lr", "1e30"]
    said = run(project, "train.py", *flags, "--out", "infinite")
    assert "samples are not finite" in said
    assert (project / "infinite/weights.safetensors").is_file() and not (project / "infinite/samples").exists()


def flip(file: Path, at: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "flipped-weights": ("networks.safetensors", flip),
    "flipped-header": ("networks.safetensors", lambda file: flip(file, 0.02)),
    "flipped-moments": ("optimizers.safetensors", flip),
    "flipped-state": ("state.json", flip),
    "cut": ("averages.safetensors", cut),
    "empty": ("state.json", lambda file: os.truncate(file, 0)),
    "missing": ("optimizers.safetensors", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped(project: Path, damage: str) -> None:
    file, harm = DAMAGES[damage]
    out = again(project, damage)
    harm(out / CHECKPOINT / file)
    said = run(project, "train.py", *FLAGS, "--out", damage, "--resume", "true")
    assert "skipped step-00000020: " in said and file in said and "step-00000010" in said
    same(project / "whole", out)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert names == ["step-00000010", "step-00000020", "step-00000020.damaged"]


def test_a_file_in_place_of_a_checkpoint_is_skipped(project: Path) -> None:
    out = again(project, "file")
    shutil.rmtree(out / CHECKPOINT)
    (out / CHECKPOINT).write_text("words")
    said = run(project, "train.py", *FLAGS, "--out", "file", "--resume", "true")
    assert f"skipped step-00000020: file/{CHECKPOINT} is a file, not a folder" in said
    same(project / "whole", out)
    shutil.rmtree(out / "checkpoints")
    (out / "checkpoints").write_text("words")
    assert "file/checkpoints is a file, not a folder" in refusal(project, *FLAGS, "--out", "file")


def test_no_intact_checkpoint_is_an_error(project: Path) -> None:
    out = again(project, "none")
    for step in (10, 20):
        flip(out / f"checkpoints/step-{step:08d}/networks.safetensors")
    assert "holds no intact checkpoint" in refusal(project, *FLAGS, "--out", "none", "--resume", "true")
    assert len(list((out / "checkpoints").glob("step-????????"))) == 2


def test_processes_agree_on_the_intact_checkpoint(project: Path) -> None:
    flags = [*FLAGS, "--parallel", "ddp", "--out", "ddp"]
    two_processes(project, *flags)
    shutil.copytree(project / "ddp", project / "ddp_whole")
    flip(project / "ddp" / CHECKPOINT / "networks.safetensors")
    said = two_processes(project, *flags, "--resume", "true")
    assert said.count("skipped step-00000020") == 1
    same(project / "ddp_whole", project / "ddp")


def test_a_checkpoint_is_read_as_weights(project: Path) -> None:
    averages = load_file(project / "whole" / "weights.safetensors")
    found = open_weights(project / "whole" / CHECKPOINT)
    assert found.keys() == averages.keys()
    weights = ["--class", "3", "--per-class", "2"]
    for name, file in (("folder", CHECKPOINT), ("file", "weights.safetensors")):
        run(project, "sample.py", "--weights", f"whole/{file}", *weights, "--raw", f"{name}.npz")
    a, b = (np.load(project / f"{name}.npz")["samples"] for name in ("folder", "file"))
    assert np.array_equal(a, b)
    shutil.copy(project / "whole" / "weights.safetensors", project / "bad.safetensors")
    flip(project / "bad.safetensors")
    assert "bad.safetensors is damaged" in refusal(project, "--weights", "bad.safetensors", script="sample.py")


def test_a_foreign_checkpoint_is_refused(project: Path) -> None:
    wide = project.parent / "wide"
    spec = load_spec("digits_dit", overrides=[*TINY["digits_dit"], "backbone.width=32"])
    project_from_lowered(lower(spec), spec, wide)
    said = refusal(wide, *FLAGS, "--out", str(project / "whole"), "--resume", "true")
    assert "model.main.width: " in said and "written with 16, not 32: the weights belong to another model" in said
    weights = ["--weights", str(project / "whole/weights.safetensors")]
    assert "belongs to another model" in refusal(wide, *weights, script="sample.py")
    other = project.parent / "other"
    spec = load_spec("digits_dit", overrides=[*TINY["digits_dit"], "train.optimizer={kind: sgd}"])
    project_from_lowered(lower(spec), spec, other)
    said = refusal(other, *FLAGS, "--out", str(project / "whole"), "--resume", "true")
    assert "optimizer.kind: " in said and 'was written with "adamw", not "sgd"' in said


@pytest.mark.parametrize("kind", ["networks", "averages", "optimizers"])
def test_files_of_two_checkpoints_do_not_mix(project: Path, kind: str) -> None:
    """Each file is intact, but they are not of the same step."""
    out = again(project, f"mixed_{kind}")
    shutil.copy(out / f"checkpoints/step-00000010/{kind}.safetensors", out / CHECKPOINT)
    said = run(project, "train.py", *FLAGS, "--out", out.name, "--resume", "true")
    assert f"skipped step-00000020: {out.name}/{CHECKPOINT}/{kind}.safetensors is not the file" in said
    same(project / "whole", out)


REFUSED = {
    "seed": ("--seed", "1", "seed: ", "was written with 0, not 1"),
    "fewer-steps": ("--steps", "12", "steps: ", "was written with 20, not 12: it has already taken 20 steps"),
    "no-ema": ("--ema", "null", "ema: ", "was written with 0.995, not null"),
    "another-model": ("--model.main.heads", "4", "model.main.heads: ", "was written with 2, not 4"),  # of equal shapes
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_resumed_run_refuses_what_it_cannot_change(project: Path, case: str) -> None:
    flag, value, *parts = REFUSED[case]
    again(project, case)
    said = refusal(project, *FLAGS, "--out", case, "--resume", "true", flag, value)
    assert all(words in said for words in parts) and "step-00000020" in said
    assert yaml.safe_load((project / case / "config.yaml").read_text())["train"]["steps"] == 20


CHANGED = {
    "optimizer.lr": 0.01,
    "optimizer.betas": [0.5, 0.9],
    "optimizer.weight_decay": 0.5,
    "schedule.warmup": 40,
    "schedule.kind": "cosine",
    "clip": 0.1,
    "ema": 0.5,
    "batch_size": 8,
    "accumulate": 2,
    "steps": 30,
}


@pytest.fixture(scope="module")
def unchanged(project: Path) -> Path:
    """The run, continued for a step with the settings it was started with."""
    out = again(project, "unchanged")
    run(project, "train.py", *FLAGS, "--out", out.name, "--resume", "true", "--steps", "21")
    return out


@pytest.mark.parametrize("setting", CHANGED)
def test_a_changed_setting_takes_effect(project: Path, unchanged: Path, setting: str) -> None:
    """One step more differs from that of the unchanged run; config.yaml has the setting and says since when."""
    out, value = again(project, f"changed_{setting}"), json.dumps(CHANGED[setting])
    flags = [*FLAGS, "--out", out.name, "--resume", "true", "--steps", "21", f"--{setting}", value]
    before = yaml.safe_load((out / "config.yaml").read_text())["train"]
    said = run(project, "train.py", *flags)
    text = (out / "config.yaml").read_text()
    recorded = yaml.safe_load(text)["train"]
    for key in setting.split("."):
        before, recorded = before[key], recorded[key]
    line = f"step 20: train.{setting} changed from {json.dumps(before)} to {json.dumps(CHANGED[setting])}"
    assert recorded == CHANGED[setting] and line in said and f"# {line}\n" in text
    if setting == "steps":
        assert (out / "checkpoints/step-00000030").is_dir()
        return
    file = "weights.safetensors" if setting == "ema" else "weights_raw.safetensors"
    ours, theirs = (load_file(folder / file) for folder in (out, unchanged))
    assert any(not np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_changed_optimizer_steps_as_if_built_so(project: Path) -> None:
    """A rate of 0 leaves every weight where it was."""
    out = again(project, "still")
    run(project, "train.py", *FLAGS, "--out", "still", "--resume", "true", "--steps", "22", "--optimizer.lr", "1e-30")
    last, first = (load_file(folder / "weights_raw.safetensors") for folder in (out, project / "whole"))
    assert all(np.allclose(last[name], first[name], rtol=0, atol=1e-20) for name in first)
    # Later checkpoints know of the change, and a run that goes on as before returns to its rate.
    said = run(project, "train.py", *FLAGS, "--out", "still", "--resume", "true", "--steps", "23")
    assert "step 22: train.optimizer.lr changed from 1e-30 to 0.002" in said
    comments = [line for line in (out / "config.yaml").read_text().splitlines() if line.startswith("#")]
    assert [line.split(": ")[0] for line in comments] == ["# step 20"] * 2 + ["# step 22"] * 2


FILES = """
from pathlib import Path
from latentc_support.changes import changes

train = {"train": {"ema": None}}
for files in ("a", None), (None, "a"), ("a", "b"):
    roles = [{"roles": {"main": {"pretrained": file}}} if file else {} for file in files]
    before, after = ({**train, **own} for own in roles)
    print(changes(Path("run"), 3, before, after)[0], after["roles"]["main"]["pretrained"])
"""


def test_a_resumed_run_may_name_other_initial_weights_or_none(project: Path) -> None:
    """The settings keep the file that the run started from."""
    done = python(project, "-c", FILES)
    assert done.returncode == 0, done.stderr
    read = "is not read: the checkpoint contains the network"
    values = [("unset", "a"), ('"a"', "None"), ('"b"', "a")]
    assert done.stdout.splitlines() == [f"step 3: roles.main.pretrained {new} {read} {own}" for new, own in values]


def limited(size: int) -> str:
    """No file may become larger, as on a disk without space."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


@pytest.mark.parametrize(("size", "file"), [(300, "config.yaml"), (60_000, "step-00000010")])
def test_a_full_disk_is_reported_and_leaves_nothing(project: Path, size: int, file: str) -> None:
    out = project / f"full{size}"
    said = refusal(project, *FLAGS, "--out", out.name, before=limited(size))
    assert file in said and "File too large; free some space" in said
    kept = {path.name for path in out.rglob("*") if path.is_file() and "tfevents" not in path.name}
    assert kept == ({"config.yaml", "metrics.csv"} if size > 300 else set())
    if size > 300:
        assert yaml.safe_load((out / "config.yaml").read_text())["name"] == "digits-dit"
    run(project, "train.py", *FLAGS, "--out", out.name, "--resume", "true")
    same(project / "whole", out)


def test_a_full_disk_at_a_later_checkpoint_keeps_the_earlier(project: Path) -> None:
    out = again(project, "later")
    shutil.rmtree(out / CHECKPOINT)
    said = refusal(project, *FLAGS, "--out", "later", "--resume", "true", before=limited(60_000))
    assert "step-00000020: File too large" in said
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000010"]
    run(project, "train.py", *FLAGS, "--out", "later", "--resume", "true")
    same(project / "whole", out)


def test_a_place_that_cannot_be_written_is_reported(project: Path) -> None:
    (project / "words").write_text("words")
    assert "--out: words is a file, not a folder" in refusal(project, "--out", "words")
    assert "Not a directory; choose another folder with --out" in refusal(project, "--out", "words/run")
    (project / "theirs").mkdir(mode=0o555)
    said = refusal(project, *FLAGS, "--out", "theirs/run", before=BOUND_BY_PERMISSIONS)
    assert "Permission denied; change its permissions" in said


# Takes from root the right to write everywhere (CAP_DAC_OVERRIDE, the second bit of the effective capabilities).
BOUND_BY_PERMISSIONS = """
import ctypes
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
ctypes.CDLL(None).capget(header, sets)
sets[0] &= ~2
assert ctypes.CDLL(None).capset(header, sets) == 0
"""


def test_a_missing_package_is_named(project: Path) -> None:
    for package in ("tqdm", "torch", "safetensors"):
        said = refusal(project, before=f"import sys; sys.modules[{package!r}] = None")
        assert said == f"the package {package} is missing: pip install -r requirements.txt"


def test_help_lists_every_setting(project: Path) -> None:
    said = run(project, "train.py", "--help")
    config = yaml.safe_load((project / "config.yaml").read_text())
    for name, value in config["train"].items():
        for key in [f"{name}.{inner}" for inner in value] if isinstance(value, dict) else [name]:
            assert f"\n  --{key} " in said, key
    assert "--optimizer.lr 0.002 " in said and "peak learning rate" in said and "--data.part" in said
    assert said == run(project, "train.py", "-h") and not (project / "runs/train").exists()


def test_leftovers_of_a_kill_are_swept(project: Path) -> None:
    out = again(project, "swept")
    left = out / "checkpoints/.step-00000030.7.unfinished"
    left.mkdir()
    (left / "networks.safetensors").write_bytes(b"half")
    (out / "samples").mkdir()
    (out / "samples/.00000030.7.unfinished.png").write_bytes(b"half")
    run(project, "train.py", *FLAGS, "--out", "swept", "--resume", "true")
    assert not list(out.rglob(".*"))
    same(project / "whole", out)


def running(project: Path, out: str, before: str = "") -> Started:
    """A run that has passed its first steps."""
    process = Started(project, "train.py", *LONG, "--out", out, before=before)
    while "step 10/" not in process.stdout.readline():
        assert process.returncode is None
    return process


LONG = [*SHORT, "--steps", "1000000", "--checkpoint_every", "1000000"]


def test_a_hangup_saves_unless_it_is_ignored(project: Path) -> None:
    process = running(project, "hangup")
    process.send_signal(signal.SIGHUP)
    assert "saved" in process.rest() and process.returncode == 0
    assert len(list((project / "hangup/checkpoints").iterdir())) == 1
    ignored = running(project, "nohup", before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    ignored.send_signal(signal.SIGHUP)
    assert "step" in ignored.stdout.readline()
    ignored.send_signal(signal.SIGTERM)
    assert "saved" in ignored.rest()


# Stops on SIGINT, which `latentc train` sends for every signal, and starts without the seconds that PyTorch takes.
STUB = """
import signal, sys, time
from pathlib import Path

def stop(*_):
    Path(sys.argv[-1], "checkpoints/step").mkdir(parents=True)
    sys.exit(print("saved"))

signal.signal(signal.SIGINT, stop)
print("step 10:", flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])  # SIGTERM ends it as SIGHUP does
def test_latentc_train_takes_the_run_with_it(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(STUB)
    process = subprocess.Popen(
        [sys.executable, "-m", "latentc", "train", str(tmp_path), *LONG, "--out", "run"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "step 10:" not in process.stdout.readline():
        assert process.poll() is None
    trainer = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    process.send_signal(number)
    assert "saved" in process.communicate(timeout=300)[0]
    assert process.returncode == 128 + number
    assert not Path(f"/proc/{trainer}").exists()
    assert (tmp_path / "run/checkpoints/step").is_dir()


def test_a_run_survives_its_terminal(project: Path) -> None:
    """After a hangup nothing can be written to the terminal; the checkpoint is saved all the same."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 200))
    attached = f"import os; os.setsid(); terminal = os.open({os.ttyname(theirs)!r}, os.O_RDWR); "
    attached += "[os.dup2(terminal, number) for number in (0, 1, 2)]"  # the first that a new session opens is its own
    process = Started(project, "train.py", *LONG, "--out", "terminal", before=attached)
    said = b""
    while b"loss=" not in said:
        assert select.select([ours], [], [], 60)[0]
        said += os.read(ours, 4096)
    os.close(theirs)
    os.close(ours)  # the kernel hangs up
    assert process.wait(60) == 0
    assert len(list((project / "terminal/checkpoints").iterdir())) == 1


def test_a_damaged_image_is_found_at_the_start_or_costs_no_step(tmp_path: Path) -> None:
    """Every image is read before the first step; one that is damaged later ends training, which then continues."""
    from PIL import Image

    for i in range(40):
        file = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 6 * i, np.uint8)).save(file)
    data = {"kind": "image_folder", "path": str(tmp_path / "images"), "classes": 2, "shape": [1, 8, 8]}
    spec = load_spec("digits_dit", overrides=[*TINY["digits_dit"], f"data={json.dumps(data)}"])
    project = tmp_path / "project"
    project_from_lowered(lower(spec), spec, project)
    flags = [*SHORT, "--steps", "10", "--batch_size", "4", "--workers", "0"]
    run(project, "train.py", *flags, "--out", "whole")
    script = "from latentc_support.config import load_config; from latentc_support.data import Order, open_data; "
    script += "config = load_config([]); "
    script += "rows, _ = next(iter(Order(40, 4, config['train']['seed'], 6, 0, 1))); "
    script += "print(open_data(config).source.pictures.files[rows[0]])"
    file = Path(python(project, "-c", script).stdout.strip())  # of step 6, the seventh
    content = file.read_bytes()
    file.write_bytes(content[:-30])
    words = refusal(project, *flags, "--out", "early")
    assert words.startswith(f"data: 1 of 40 images cannot be read: {file} cannot be read as an image")
    assert "replace or remove them" in words and not (project / "early").exists()
    skipping = python(project, "train.py", *flags, "--out", "skipping", "--data.damaged", "skip")
    assert f"1 of 40 images cannot be read and are skipped: {file}" in skipping.stdout, skipping.stderr
    assert skipping.returncode == 0 and "data.damaged" in refusal(project, *flags, "--data.damaged", "keep")
    for path in ("", "null", "7"):
        assert "data.path" in refusal(project, *flags, "--data.path", path, "--out", "early")
    late = python(project, "-c", "import train; train.CHECKING = -1.0; train.main()", *flags, "--out", "late")
    assert late.returncode == 1 and "`--resume true` continues once it can be read" in late.stderr, late.stderr
    assert [saved.name for saved in (project / "late" / "checkpoints").iterdir()] == ["step-00000006"]
    file.write_bytes(content)
    run(project, "train.py", *flags, "--out", "late", "--resume", "true")
    same(project / "whole", project / "late")


FROZEN = [
    ("digits_dit", "backbone.frozen=true", "main"),
    ("digits_dit", "backbone.pretrained=weights.safetensors", "main"),  # frozen by default
    ("digits_dit", 'backbone.frozen_weights=["*"]', "main"),
    ("digits_biggan", "networks.discriminator.frozen=true", "discriminator"),
]


@pytest.mark.parametrize(("system", "change", "network"), FROZEN)
def test_an_update_without_weights_to_train_is_refused(system: str, change: str, network: str) -> None:
    with pytest.raises(DiagnosticError, match=f"network `{network}`, but none of its weights is left to train"):
        lower(load_spec(system, overrides=[change]))


def test_forward_derivatives_of_a_network_that_its_training_changes_are_refused() -> None:
    """In place, which torch.func.jvp cannot: the weights of EDM2's layers, which training keeps normalised."""
    flow = "objective={kind: mean_flow, process: {kind: interpolant, path: linear}}"
    changes = [
        flow,
        "sampler={kind: flow_map, steps: 1}",
        "conditioning.span={kind: span}",
        "networks.uncertainty=null",
    ]
    with pytest.raises(DiagnosticError, match=r"`main` forwards .* its `forced_norm` changes it"):
        lower(load_spec("edm2", overrides=changes))


@pytest.mark.parametrize("system", ["digits_mean_flow", "digits_improved_mean_flow"])
def test_recomputing_forward_derivatives_is_refused(system: str, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError, match="blocks of that pass cannot be recomputed"):
        lower(load_spec(system, overrides=["train.recompute=true"]))
    sizes = [*TINY["digits_dit"], "backbone.depth=3"]
    spec = load_spec(system, overrides=sizes)
    project_from_lowered(lower(spec), spec, tmp_path)
    said = refusal(tmp_path, *SHORT, "--steps", "2", "--schedule.warmup", "0", "--recompute", "true")
    assert said == "recompute: a loss with torch.func.jvp cannot recompute its blocks"
