"""Two generators of handwritten digits, all the way: train, compile, sample from the engine alone, judge.

    python examples/digits/demo.py [--out out/demo]

A diffusion transformer and an autoregressive transformer learn from one half of scikit-learn's digits; their whole
samplers become ONNX; the engines draw a grid each (a row a class) and as many images as the held-out half has, which
are judged by what the generators never saw. Takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from metrics import LEVELS, Judge, Report, split
from PIL import Image
from tqdm import tqdm

import latentc_runtime
from latentc import api
from latentc.verify.report import TORCH
from latentc.verify.report import Report as VerifyReport


@dataclass(frozen=True)
class Entry:
    """One generator of the demo: its spec, what it is, and the class accuracy it has to reach."""

    spec: str
    title: str
    accuracy: float


ENTRIES = (
    Entry("digits_dit", "diffusion transformer (DiT), 50 steps with guidance", 0.95),
    Entry("digits_llamagen", "autoregressive transformer (LlamaGen), 64 tokens with guidance", 0.90),
)


def main() -> int:
    """Runs the demo; 1 if a generator misses what it has to reach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for projects, bundles and pictures")
    out: Path = parser.parse_args().out
    began = time.monotonic()
    judge = Judge.fit(lambda epochs: tqdm(epochs, desc="classifier on the real digits", unit="epoch"))
    lines, reached = [], True
    grids = []
    for entry in ENTRIES:
        print(f"\n== {entry.title}", flush=True)
        bundle = train_and_compile(entry, out)
        grid, report, rate = draw_and_judge(entry, bundle, judge, out)
        agreement = api.verify(bundle, progress=Bar("engine against PyTorch").tell)
        grids.append(grid)
        good = report.accuracy >= entry.accuracy and report.nearest_ratio >= 0.8 and agreement.ok
        reached &= good
        lines += [
            f"\n{entry.title}: {'good' if good else 'NOT GOOD ENOUGH'}",
            f"  class accuracy              {report.accuracy:.3f}   (at least {entry.accuracy:.2f})",
            f"  Fréchet distance            {report.frechet:.3f}   (two halves of the real digits: "
            f"{report.frechet_real:.3f})",
            f"  nearest training image      {report.nearest_ratio:.3f} of the held-out images' (at least 0.80)",
            f"  images a second             {rate:.1f}",
            f"  engine against PyTorch      {_agreement(agreement)}",
        ]
    gap = np.full((grids[0].shape[0], 8, 1), 255, np.uint8)
    _write(out / "digits.png", np.concatenate([grids[0], gap, grids[1]], axis=1), scale=4)
    print("\n".join(lines))
    print(f"\nboth grids: {out / 'digits.png'}; {time.monotonic() - began:.0f} s in all")
    return 0 if reached else 1


def train_and_compile(entry: Entry, out: Path) -> Path:
    """Emits the training project, trains it, compiles what it learned; returns the bundle."""
    project, bundle = out / entry.spec / "project", out / entry.spec / "bundle"
    shutil.rmtree(out / entry.spec, ignore_errors=True)
    api.emit(entry.spec, project)
    # Waiting threads that spin cost more than they save where other work shares the cores.
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, "train.py"], cwd=project, env=env, check=True)
    api.compile(entry.spec, project / "runs/train/weights.safetensors", bundle)
    return bundle


def draw_and_judge(entry: Entry, bundle: Path, judge: Judge, out: Path) -> tuple[np.ndarray, Report, float]:
    """Samples from the engine alone: a 10 × 10 grid, the judge's report, images a second."""
    pipe = latentc_runtime.load(bundle)
    grid = latentc_runtime.grid(pipe.images(pipe.sample(np.repeat(np.arange(10), 10), seeds=0)), columns=10, gap=1)
    _write(out / f"{entry.spec}.png", grid, scale=4)
    _, heldout = split()
    labels = np.sort(heldout.labels)
    start = time.monotonic()
    parts = [
        pipe.sample(labels[i : i + 100], seeds=np.arange(1000 + i, 1000 + min(i + 100, len(labels))))
        for i in tqdm(range(0, len(labels), 100), desc="sampling from the engine", unit="× 100 images")
    ]
    seconds = time.monotonic() - start
    samples = np.concatenate(parts)
    levels = samples.reshape(-1, 8, 8) if samples.dtype.kind == "i" else (samples[:, 0] + 1) * (LEVELS / 2)
    report = judge.report(np.clip(levels, 0, LEVELS), labels)
    return grid, report, len(labels) / seconds


def _agreement(report: VerifyReport) -> str:
    """The worst of the whole samplers, engine against emitted PyTorch, equal noise."""
    samplers = [c for c in report.comparisons if c.what == "sampler" and c.reference == TORCH]
    worst = max(samplers, key=lambda c: c.error)
    if worst.tolerance == 0:
        return "token sequences identical" if worst.error == 0 else f"{worst.error:.2%} of the tokens differ"
    return f"{worst.error:.1e} of the range (at most {worst.tolerance:.0e})"


class Bar:
    """A progress bar of something that tells (done, of, stage)."""

    def __init__(self, title: str) -> None:
        self.bar = tqdm(desc=title, unit="part")

    def tell(self, done: int, total: int, stage: str) -> None:
        self.bar.total = total
        self.bar.set_postfix_str(stage, refresh=False)
        self.bar.update(done - self.bar.n)
        if done == total:
            self.bar.close()


def _write(path: Path, picture: np.ndarray, scale: int) -> None:
    """A u8 [H, W, 1] picture as PNG, each pixel `scale` wide."""
    image = Image.fromarray(picture[..., 0])
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    sys.exit(main())
