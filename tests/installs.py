"""Install the wheel with each extra into an environment of its own, and use what the extra is for.

    python tests/installs.py [EXTRA …]      (make installs)

Downloads the extras' packages: a few minutes each, and about 10 GB for all. `gpu`, `tensorrt` and `tensorrt-rtx` are
installed and imported; running them takes a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Weights of the first spec, without PyTorch.
WEIGHTS = """
import numpy as np
from safetensors.numpy import save_file
from latentc.checkpoint import computed, network_params
from latentc.lower import lower
from latentc.spec import load_spec
lowered = lower(load_spec("my-model.yaml"))
params = network_params(lowered, lowered.networks["main"])
rng = np.random.default_rng(0)
shapes = {name: [int(d) for d in p.type.shape] for name, p in params.items() if not computed(p)}
save_file({n: (0.05 * rng.standard_normal(s)).astype("f4") for n, s in shapes.items()}, "weights.safetensors")
"""
COMPILE = "latentc compile my-model.yaml -w weights.safetensors -o model.latentc"
SAMPLE = "latentc sample model.latentc -o grid.png"
SERVER = "from latentc_runtime.serve.run import create_app; create_app(['model.latentc'])"

# extras, and what shows that they are enough: command lines, or Python behind `python -c`.
USES: dict[str, list[str]] = {
    "": ["latentc check my-model.yaml", "latentc emit my-model.yaml -o project", "latentc show dit", "latentc doctor"],
    "cpu": [COMPILE, SAMPLE, "latentc bench model.latentc --seconds 1"],
    "openvino": [f"{COMPILE} --set target.engine=openvino", SAMPLE],
    "torch,demo": ["latentc train my-model.yaml --steps 2 --schedule.warmup 1"],
    "cpu,plots": [
        "latentc tune my-model.yaml -w weights.safetensors -o tuned --samples 16 --evaluations 48 --seconds 5"
    ],
    "cpu,demo,sweep": [
        "latentc sweep my-model.yaml -o swept --set train.steps=2,3 --set train.schedule.warmup=1 --count 40"
    ],
    "cpu,data": [COMPILE, "latentc sample model.latentc --count 20 --as parquet -o samples"],
    "hub": ["import datasets, latentc.survey; latentc.survey.survey"],
    "cpu,evaluate": [COMPILE, "latentc evaluate model.latentc --count 40"],
    "cpu,serve": [COMPILE, SERVER],
    "gpu": ["import onnxruntime; print(onnxruntime.get_available_providers())"],
}


def run(line: list[str], folder: Path) -> None:
    """Run a command; its output only if it fails."""
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)}\n{done.stdout[-2000:]}{done.stderr[-3000:]}")


def main() -> None:
    """Build the wheel, then try each extra."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"all by default: {' '.join(filter(None, USES))}")
    chosen = parser.parse_args().extras or list(USES)
    with tempfile.TemporaryDirectory() as name:
        dist = Path(name, "dist")
        run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(dist)], ROOT)
        (wheel,) = dist.glob("*.whl")
        for number, extras in enumerate(chosen):
            began, folder = time.monotonic(), Path(name, str(number))
            folder.mkdir()
            run([sys.executable, "-m", "venv", "venv"], folder)
            binaries = folder / "venv/bin"
            python = str(binaries / "python")
            run([python, "-m", "pip", "install", "-q", f"{wheel}[{extras}]" if extras else str(wheel)], folder)
            run([str(binaries / "latentc"), "init"], folder)
            run([python, "-c", WEIGHTS], folder)
            for use in USES[extras]:
                words = use.split()
                is_command = words[0] == "latentc"
                run([str(binaries / "latentc"), *words[1:]] if is_command else [python, "-c", use], folder)
            run([python, "-m", "pip", "check"], folder)
            print(f"{extras or 'no extra'}: good, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
