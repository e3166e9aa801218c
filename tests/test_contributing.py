"""CONTRIBUTING.md's seven components, followed to the letter in a copy of the compiler."""

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
from tiny_model import write_random_weights
from pathlib import Path
from latentc import api

write_random_weights(Path("spec.yaml"), Path("weights.safetensors"), 0.2)
rng = np.random.default_rng(0)
x = rng.standard_normal((3, 1, 8, 8), "f4")
angle = rng.uniform(-3, 3, (3, 1)).astype("f4")
inputs = {"x": x, "t": rng.uniform(size=3).astype("f4"), "y": np.array([1, 2, 10]), "angle": angle}
weights = "weights.safetensors"
outs = [api.forward("spec.yaml", weights, inputs, backend) for backend in ("oracle", "torch", "onnx")]
for out in outs[1:]:
    assert np.abs(out - outs[0]).max() <= 1e-5 * np.abs(outs[0]).max()
assert outs[0].shape == (3, 1, 8, 8) and np.abs(outs[0]).max() > 1e-3
given = {"x": x, "y": np.array([1, 2, 3]), "angle": angle, "u": rng.uniform(size=3), "noise": x[::-1]}
given |= {"drop": np.full(3, 0.9), "drop_angle": np.full(3, 0.05)}
by_oracle, by_torch = (api.loss("spec.yaml", weights, given, backend)["loss"] for backend in ("oracle", "torch"))
assert abs(by_torch - by_oracle) < 1e-5 * by_oracle
api.compile("spec.yaml", weights, "bundle")
backends = ("engine", "oracle", "torch")
samples = [api.sample("bundle", [1, 2, 3], given={"angle": angle}, backend=backend) for backend in backends]
for other in samples[1:]:
    assert np.abs(other - samples[0]).max() <= 1e-4 * np.abs(samples[0]).max()
assert np.abs(api.sample("bundle", [1, 2, 3], given={"angle": angle + 1.0}) - samples[0]).max() > 1e-3

write_random_weights(Path("variational.yaml"), Path("vae.safetensors"), 0.2)
given = {"x": x, "noise": rng.standard_normal((3, 4, 4, 4), "f4")}
spec, weights = "variational.yaml", "vae.safetensors"
by_oracle, by_torch = (api.loss(spec, weights, given, backend) for backend in ("oracle", "torch"))
assert by_oracle.keys() == {"loss", "reconstruction", "divergence"}
for name, value in by_oracle.items():
    assert abs(by_torch[name] - value) <= 1e-5 * abs(value), name
assert abs(by_oracle["loss"] - by_oracle["reconstruction"] - by_oracle["divergence"]) < 1e-5 * by_oracle["loss"]
assert by_oracle["reconstruction"] > 64 * np.log(0.5 * np.sqrt(2 * np.pi))  # that of no error
api.compile(spec, weights, "vae")
samples = [api.sample("vae", count=3, backend=backend) for backend in backends]
for other in samples[1:]:
    assert np.abs(other - samples[0]).max() <= 1e-4 * np.abs(samples[0]).max()
assert samples[0].std() > 1e-3

import os, sys
np.savez("turned.npz", x=rng.standard_normal((8, 1, 8, 8), "f4"), y=np.arange(8), angle=np.ones((8, 1), "f4"))
api.emit("spec.yaml", "project")
os.chdir("project")
sys.path.insert(0, os.getcwd())
sys.argv = ["train.py", "--data.path", "../turned.npz", "--workers", "0", "--optimizer.beta", "0.5"]
import torch, train
made, steps = [], torch.optim.RAdam.step
torch.optim.RAdam.step = lambda self: (made.append(self.defaults["betas"][1]), steps(self))
train.main()
assert made == [0.5, 0.5]
assert Path("runs/train/weights.safetensors").is_file()
"""


def test_the_components_of_the_page_work_on_every_backend(tmp_path):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shutil.copytree(ROOT / "compiler", tmp_path / "compiler", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    (tmp_path / "templates").symlink_to(ROOT / "templates")
    files = re.findall(r"### [^\n]*: `(components/\S+\.py)`\n.*?```python\n(.*?)```", page, flags=re.DOTALL)
    assert [Path(file).parts[1] for file, _ in files] == [
        "networks",
        "conditions",
        "processes",
        "samplers",
        "objectives",
        "samplers",
        "optimizers",
    ]
    for file, text in files:
        (tmp_path / "compiler/latentc" / file).write_text(text, encoding="utf-8")
    for name, file in (("turned", "spec.yaml"), ("variational", "variational.yaml")):
        (spec,) = re.findall(rf"```yaml\n(latentc: 1\nname: {name}.*?)```", page, flags=re.DOTALL)
        (tmp_path / file).write_text(spec, encoding="utf-8")
    paths = [tmp_path / "compiler", ROOT / "runtime", ROOT / "tests"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    run = subprocess.run(
        [sys.executable, "-c", FOLLOWED], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
