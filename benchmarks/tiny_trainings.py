"""Whether systems learn: each shipped system at the size of `tests/tiny_systems.py`, on a few samples with a pattern.

    python benchmarks/tiny_trainings.py [--out out/tiny_trainings] [--only NAME …] [--steps 300]

Each emitted project trains on the digits, or on 64 samples drawn from as many patterns as there are classes: smooth
fields, and texts of tokens that depend on the class. Networks that the spec takes pretrained start at random. What is
said is by how much every printed loss falls, from the mean of the first 10 steps to that of the last 50. The goal, that
the loss that is minimised falls by a tenth, was set before the first run; of likelihoods, whose losses may be negative,
bits per dimension are to fall by 0.1. Systems with two players are only required to train. A system takes about half a
minute.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import trained

from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_systems import SYSTEMS, Tiny

SAMPLES = 64
TRAIN = ("train.batch_size=16", "train.workers=0", "train.parallel=none", "train.precision=fp32", "train.ema=0.9")
TRAIN += ("train.schedule={kind: constant, warmup: 10}", "train.checkpoint_every=100000", "train.log_every=1")
TRAIN += ("train.optimizer={kind: adam, lr: 1e-3}", "train.optimizers={}", "train.clip=1.0")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/tiny_trainings"), help="folder of the projects")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="some of the systems")
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    lines = []
    for name in given.only:
        try:
            losses = learned(SYSTEMS[name], given.out.resolve() / name, given.steps)
        except (DiagnosticError, SystemExit) as error:
            lines.append(f"{name}: MISSED: {error}")
            print(lines[-1], flush=True)
            continue
        ends = {what: (float(np.mean(each[:10])), float(np.mean(each[-50:]))) for what, each in losses.items()}
        print(f"{name}: " + ", ".join(f"{what} {a:.3g} to {b:.3g}" for what, (a, b) in ends.items()), flush=True)
        if bits := bits_of(given.out.resolve() / name / "log.txt"):
            fell = float(np.mean(bits[:10]) - np.mean(bits[-50:]))
            lines.append(f"{name}: " + verdict("fall of the bits per dimension", fell, 0.1, "", True))
        elif set(ends) == {"loss"} and min(losses["loss"]) > 0:
            lines.append(f"{name}: " + verdict("fall of the loss", ends["loss"][0] / ends["loss"][1], 1.1, " ×", True))
        else:
            lines.append(f"{name}: trained")
        print(lines[-1], flush=True)
    return int(any("MISSED" in line for line in lines))


def learned(system: Tiny, project: Path, steps: int) -> dict[str, list[float]]:
    """The printed losses of a training, by name."""
    project.parent.mkdir(parents=True, exist_ok=True)
    data = project.with_suffix(".npz")
    path = (f"data.path={data}",) if "train.npz" in " ".join(system.sizes) else ()
    sizes = (*system.sizes, *TRAIN, *path)
    networks = load_spec(system.spec, system.variant, sizes).networks.items()
    sizes += tuple(f"networks.{name}.pretrained=null" for name, network in networks if network.pretrained)
    spec = load_spec(system.spec, system.variant, sizes)
    if path:
        np.savez(data, **patterned(spec))
    return trained(system.spec, project, overrides=sizes, variant=system.variant, steps=steps).losses


def bits_of(log: Path) -> list[float]:
    """Bits per dimension of every step, if they are printed."""
    return [float(value) for value in re.findall(r"^step .* bits ([-.\d]+)", log.read_text(encoding="utf-8"), re.M)]


def patterned(spec: Any) -> dict[str, NDArray[Any]]:
    """An array per data field, [64, ...] each, that depends on the class and a little on chance."""
    rng, classes = np.random.default_rng(0), spec.data.classes or 4
    labels = np.arange(SAMPLES) % classes
    arrays: dict[str, NDArray[Any]] = {}
    for name, field in spec.data.fields.items():
        shape = tuple(field.shape)
        if name == "y":
            arrays[name] = labels
        elif field.dtype == "bool":
            arrays[name] = np.ones((SAMPLES, *shape), bool)
        elif field.classes:
            patterns = rng.integers(field.classes, size=(classes, *shape))
            kept = rng.random((SAMPLES, *shape)) < 0.9
            arrays[name] = np.where(kept, patterns[labels], rng.integers(field.classes, size=(SAMPLES, *shape)))
        else:
            phase, place = rng.uniform(0, 6, classes)[labels], np.arange(int(np.prod(shape, dtype=int)))
            waves = np.sin(phase[:, None] + 0.3 * place).reshape(SAMPLES, *shape)
            arrays[name] = np.float32(0.8 * waves + 0.1 * rng.standard_normal(waves.shape)).clip(-1, 1)
    return arrays


if __name__ == "__main__":
    sys.exit(main())
