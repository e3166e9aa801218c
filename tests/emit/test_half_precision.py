"""Projects that train in fp16, with a factor of the loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from forked import python
from safetensors.torch import load_file

from latentc.diagnostics import DiagnosticError
from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec

TINY = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "train.batch_size=8"]
TINY += ["train.workers=0", "train.schedule.warmup=0", "train.optimizer={kind: sgd, lr: 0.1}", "train.ema=null"]
RUNS = {
    "fp32": ["--precision", "fp32"],
    "fp16": [],
    "too_large": ["--loss_scaling", "1e12"],  # every gradient of the network overflows
}


@pytest.mark.slow
def test_gradients_are_those_of_full_precision_or_zero(tmp_path: Path) -> None:
    spec = load_spec("digits_dit", None, [*TINY, "train.precision=fp16", "train.loss_scaling=1024"])
    project_from_lowered(lower(spec), spec, tmp_path)
    for name, flags in RUNS.items():
        done = python(tmp_path, "train.py", "--steps", "1", "--sample_every", "null", "--out", name, *flags)
        assert done.returncode == 0, done.stdout + done.stderr
    full, half, none = (load_file(tmp_path / name / "weights_raw.safetensors") for name in RUNS)
    start = "import torch, yaml; from model import NETWORKS; torch.manual_seed(0); "
    start += "c = yaml.safe_load(open('fp32/config.yaml'))['model']['main']; "
    start += "from safetensors.torch import save_file; save_file(NETWORKS['main'](**c).state_dict(), 'start')"
    assert python(tmp_path, "-c", start).returncode == 0
    before = load_file(tmp_path / "start")
    name = "final_layer.linear.weight" if "final_layer.linear.weight" in full else list(full)[-1]
    moved, close = full[name] - before[name], half[name] - before[name]
    assert moved.abs().max() > 0
    assert (close - moved).abs().max() < 0.02 * moved.abs().max()
    assert all(torch.isfinite(value).all() for value in none.values())
    assert torch.equal(none[name], before[name])


def test_the_factor_is_for_half_precision() -> None:
    with pytest.raises(DiagnosticError, match="is for `precision: fp16`"):
        load_spec("digits_dit", None, ["train.loss_scaling=8"])
