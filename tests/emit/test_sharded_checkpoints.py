"""Sharded checkpoints: resumed by other numbers of processes, skipped if damaged, read by compile."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from forked import Started, python
from forked_training import trained
from safetensors import safe_open
from safetensors.numpy import load_file
from test_train import same
from test_train_failures import flip

from latentc.checkpoint import network_weights
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import materialise, open_weights

pytestmark = pytest.mark.slow

SIZES = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "train.workers=0"]
# 24 samples per step for 1, 2, 3 and 4 processes; the output layer's bias has fewer rows than there are processes.
FLAGS = ["--batch_size", "24", "--schedule.warmup", "2", "--checkpoint_every", "4", "--log_every", "4"]
NEWEST, BEFORE = "checkpoints/step-00000008", "checkpoints/step-00000004"


def job(folder: Path, out: str, processes: int, steps: int, parallel: str = "fsdp", resume: bool = True) -> dict:
    flags = [*FLAGS, "--parallel", parallel, "--steps", str(steps), "--out", out, "--resume", str(resume).lower()]
    return {"folder": str(folder), "name": f"{out}.{steps}", "processes": processes, "flags": flags}


def again(folder: Path, out: str, finished: bool = False) -> Path:
    """A copy of the whole run without its weights and, unless `finished`, without its newest checkpoint."""
    shutil.copytree(folder / "whole", folder / out)
    for file in (folder / out).glob("*.safetensors"):
        file.unlink()
    if not finished:
        shutil.rmtree(folder / out / NEWEST)
    return folder / out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run `whole` of 8 steps by two processes, and runs that went on from copies of it."""
    folder = tmp_path_factory.mktemp("sharded") / "digits_dit"
    spec = load_spec("digits_dit", overrides=SIZES)
    project_from_lowered(lower(spec), spec, folder)
    assert not trained([job(folder, "whole", 2, 8, resume=False)])
    flip(again(folder, "flipped", True) / NEWEST / "optimizers/shard-00002-model-00001-of-00001.safetensors")
    (again(folder, "missing", True) / NEWEST / "averages/shard-00001-model-00001-of-00001.safetensors").unlink()
    flip(again(folder, "state", True) / NEWEST / "state.json")
    part = "optimizers/shard-00002-model-00001-of-00001.safetensors"
    mixed = again(folder, "mixed", True)
    shutil.copy(mixed / BEFORE / part, mixed / NEWEST / part)
    more = again(folder, "more", True)
    shutil.copy(more / BEFORE / part, more / NEWEST / part.replace("00002", "00003"))
    unfinished = again(folder, "unfinished")
    shutil.copytree(folder / "whole" / NEWEST, unfinished / "checkpoints/.step-00000008.1.unfinished")
    again(folder, "other", True)
    again(folder, "full")
    recomputed = job(folder, "recomputed", 2, 8, resume=False)
    failed = trained(
        [
            *(job(folder, name, 2, 8) for name in ("flipped", "missing", "state", "mixed", "more", "unfinished")),
            job(folder, "other", 1, 12),
            job(folder, "other", 3, 16),
            job(folder, "other", 2, 20, "ddp"),
            job(folder, "other", 4, 24),
            {**job(folder, "full", 2, 8), "limit": 20_000},
            {**recomputed, "flags": [*recomputed["flags"], "--recompute", "true"]},
        ]
    )
    assert [line.split()[1] for line in failed.splitlines() if line.startswith(str(folder))] == ["full.8:"], failed
    return folder


def log(project: Path, name: str) -> str:
    return (project / f"{name}.0.log").read_text()


@pytest.mark.parametrize("out", ["flipped", "missing", "state", "mixed", "more", "unfinished"])
def test_as_many_processes_resume_bit_equal(project: Path, out: str) -> None:
    same(project / "whole", project / out)
    assert f"resumed from {out}/{BEFORE}\n" in log(project, f"{out}.8")
    assert not list((project / out).rglob("*unfinished*"))


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("flipped", "is damaged: its checksum does not match"),
        ("missing", "is missing"),
        ("state", "is damaged"),
        ("mixed", "is damaged: its checksum does not match"),
        ("more", "is not one of the files that were written together"),
    ],
)
def test_damaged_parts_are_skipped(project: Path, out: str, why: str) -> None:
    said = log(project, f"{out}.8")
    assert said.count("skipped step-00000008: ") == 1
    assert why in said
    assert (project / out / f"{NEWEST}.damaged").is_dir()


def test_blocks_that_run_again_give_the_same_gradients(project: Path) -> None:
    same(project / "whole", project / "recomputed")


def test_other_numbers_of_processes_resume(project: Path) -> None:
    """2 → 1 → 3 → 2 (DDP) → 4."""
    for steps, written in ((12, "step-00000008, written by 2"), (16, "12, written by 1"), (20, "16, written by 3")):
        assert written in log(project, f"other.{steps}")
    assert "resumed from other/checkpoints/step-00000020, written by 2" in log(project, "other.24")
    assert json.loads((project / "other/checkpoints/step-00000024/state.json").read_text())["state"]["world"] == 4
    weights = load_file(project / "other/weights.safetensors")
    before = load_file(project / "whole/weights.safetensors")
    assert all(np.isfinite(value).all() for value in weights.values())
    assert any(not np.array_equal(weights[name], before[name]) for name in before)


def test_each_process_writes_its_part_alone(project: Path) -> None:
    whole = load_file(project / "whole/weights_raw.safetensors")
    first, second = sorted((project / "whole" / NEWEST / "networks").iterdir())
    rows = {}
    for file in (first, second):
        with safe_open(file, "numpy") as held:
            for name in held.keys():  # noqa: SIM118
                rows.setdefault(name, []).append(held.get_tensor(name))
    for name, value in whole.items():
        assert np.array_equal(np.concatenate(rows[name]), value), name
    assert sum(len(part[0]) for part in rows.values()) < 0.6 * sum(len(value) for value in whole.values())


READ = """
import sys
from pathlib import Path
from safetensors.torch import save_file
import torch
from latentc_support.config import load_config
from latentc_support.data import Order
from sample import load_networks
from latentc_support.sharded import load_shards

checkpoint = Path(sys.argv.pop())
for kind in ("networks", "averages", "optimizers"):
    save_file(load_shards(checkpoint / kind, {}), f"{kind}.st")

files = (checkpoint, Path("whole/weights.safetensors"))
a, b = (load_networks(file, torch.device("cpu"), load_config())["main"].state_dict() for file in files)
assert all(torch.equal(a[name], b[name]) for name in b)

def rows(world, start=0):
    orders = [iter(Order(100, 24, 7, start, rank, world)) for rank in range(world)]
    return [sorted(int(r) for order in orders for r in next(order)[0]) for _ in range(9 - start)]

assert rows(1) == rows(2) == rows(3) == rows(4)
assert rows(3, 5) == rows(1)[5:]
"""


def test_one_process_reads_what_two_have_written(project: Path) -> None:
    """Weights, averages and moments bit by bit; `sample.py` too. The order of the data is that of any world."""
    checkpoint = project / "whole" / NEWEST
    read = python(project, "-c", READ, str(checkpoint))
    assert read.returncode == 0, read.stderr
    for kind, file in (("networks", "weights_raw"), ("averages", "weights")):
        found, expected = load_file(project / f"{kind}.st"), load_file(project / f"whole/{file}.safetensors")
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    moments = load_file(project / "optimizers.st")
    assert {value.ndim for name, value in moments.items() if name.endswith("/step")} == {0}
    assert sum(name.endswith("/exp_avg") for name in moments) == len(load_file(project / "whole/weights.safetensors"))


def test_compile_reads_the_averages(project: Path) -> None:
    for run, step in (("whole", 8), ("other", 24)):
        expected = load_file(project / run / "weights.safetensors")
        found = open_weights(project / run / f"checkpoints/step-{step:08d}")
        assert found.keys() == expected.keys()
        assert all(np.array_equal(materialise(found[name]), expected[name]) for name in expected)
    spec = load_spec("digits_dit", overrides=SIZES)
    assert set(network_weights(spec, lower(spec), project / "whole" / NEWEST)["main"]) >= set(expected)
    last = project / "missing" / f"{NEWEST}.damaged"
    with pytest.raises(DiagnosticError) as caught:
        open_weights(last)
    assert caught.value.diagnostics[0].code == "E0406"
    assert "shard-00001" in caught.value.diagnostics[0].message


# As `torchrun`, except that it forks its workers instead of starting an interpreter for each.
AGENT = """
import os, runpy, sys
from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, parse_args

def worker(*command):
    if not (child := os.fork()):  # a process that may end itself
        sys.argv[:] = command
        runpy.run_path(command[0], run_name="__main__")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

config, _, command = config_from_args(parse_args(sys.argv[1:]))
config.start_method = "fork"
elastic_launch(config, worker)(*command[command.index("train.py"):])
"""


def test_two_nodes(project: Path) -> None:
    """Two torchrun agents that meet at an endpoint come to the weights of two processes of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [*FLAGS, "--parallel", "fsdp", "--steps", "8", "--out", "nodes"]
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "test"]
    meeting += ["--rdzv-endpoint", f"127.0.0.1:{port}", "train.py", *flags]
    agents = [Started(project, "-c", AGENT, *meeting) for _ in range(2)]
    said = ["".join(agent.communicate(timeout=120)) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    same(project / "whole", project / "nodes")


def test_a_full_disk_leaves_no_part_of_a_checkpoint(project: Path) -> None:
    for rank in (0, 1):
        said = (project / f"full.8.{rank}.log").read_text()
        assert "File too large; free some space" in said
        assert "CheckpointException" not in said and "Traceback" not in said
    assert [path.name for path in (project / "full/checkpoints").iterdir()] == ["step-00000004"]


def test_only_files_of_the_checkpoint_are_read(tmp_path: Path) -> None:
    """A list that names files elsewhere is no list of parts."""
    (tmp_path / "state.json").write_text(json.dumps({"state": {"files": {"../averages/x.safetensors": "", "a": 1}}}))
    with pytest.raises(DiagnosticError) as caught:
        open_weights(tmp_path)
    assert caught.value.diagnostics[0].code == "E0403"
