"""An update that rests while another one runs for several steps in a row: NeuralCSA's multipliers and shifts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import python
from safetensors.torch import load_file
from tiny_systems import SYSTEMS

from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec

pytestmark = pytest.mark.slow


def test_shifts_rest_while_multipliers_are_updated(tmp_path: Path) -> None:
    """Of spans of two steps every second one is the multipliers', but the first is not."""
    system = SYSTEMS["neural_csa_per_sample"]
    own = ("objective.multipliers_span=2", "objective.multipliers_every=2", "objective.growth_every=4")
    train = ("train.steps=8", "train.batch_size=4", "train.checkpoint_every=1", "train.workers=0")
    spec = load_spec(system.spec, system.variant, [*system.sizes, *own, *train])
    project_from_lowered(lower(spec), spec, tmp_path / "project")
    rng = np.random.default_rng(0)
    given = {name: np.float32(rng.standard_normal((8, 1))) for name in ("x", "covariates")}
    treatment = np.float32(rng.integers(0, 2, (8, 1)))
    np.savez(tmp_path / "project" / "train.npz", **given, treatment=treatment, row=rng.integers(0, 5, 8))
    said = python(tmp_path / "project", "train.py", "--keep", "9", "--parallel", "none", "--sample_every", "null")
    assert not said.returncode, said.stderr
    folder = tmp_path / "project/runs/train/checkpoints"
    made = [load_file(folder / f"step-{step:08d}/networks.safetensors") for step in range(1, 9)]

    def moved(network: str) -> list[int]:
        """Steps from 1 on, counted from 0, that change weights of the network."""
        return [
            step
            for step, (before, after) in enumerate(pairwise(made), start=1)
            if any(not torch.equal(before[name], after[name]) for name in before if name.startswith(f"{network}."))
        ]

    assert moved("multipliers") == [4, 5]
    assert moved("lower") == moved("upper") == [1, 2, 3, 6, 7]
    assert moved("main") == [1, 2, 3, 4, 5, 6, 7]
