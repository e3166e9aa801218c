"""CONTRIBUTING.md's way to add a backbone, followed to the letter in a copy of the compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FOLLOWED = """
import numpy as np
from latentc import api
from latentc.ir.core import parameters
from latentc.ir.inits import INITS
from latentc.lower import lower
from latentc.spec import load_spec

spec = load_spec("spec.yaml")
lowered = lower(spec)
rng = np.random.default_rng(0)
params = parameters(lowered.module, lowered.networks["main"].methods["forward"].function)
weights = {n: INITS[p.init.kind](rng, p.type.shape, **p.init.args).astype("f4") for n, p in params.items()}
np.savez("weights.npz", **weights)
x = rng.standard_normal((3, 1, 8, 8), "f4")
inputs = {"x": x, "t": rng.uniform(size=3).astype("f4"), "y": np.array([1, 2, 10])}
outs = [api.forward("spec.yaml", "weights.npz", inputs, backend) for backend in ("oracle", "torch", "onnx")]
for out in outs[1:]:
    assert np.abs(out - outs[0]).max() <= 1e-5 * np.abs(outs[0]).max()
assert outs[0].shape == (3, 1, 8, 8) and np.abs(outs[0]).max() > 1e-3
"""


def test_the_backbone_of_the_page_works_on_every_backend(tmp_path):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", page, flags=re.DOTALL))
    shutil.copytree(ROOT / "compiler", tmp_path / "compiler", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    (tmp_path / "templates").symlink_to(ROOT / "templates")
    backbone = tmp_path / "compiler/latentc/components/networks/pixel_mlp.py"
    backbone.write_text(blocks["python"], encoding="utf-8")
    (tmp_path / "spec.yaml").write_text(blocks["yaml"], encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "compiler"), str(ROOT / "runtime")])}
    run = subprocess.run(
        [sys.executable, "-c", FOLLOWED], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
