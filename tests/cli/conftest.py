"""A tiny model to run commands on: spec, weights, inputs and a bundle, made once; every test runs in its own folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_model import HEAD, write_random_weights

from latentc import api
from latentc.cli import run

SPEC = (
    HEAD
    + """\
objective: {kind: diffusion, predicts: velocity, process: {kind: discrete, schedule: cosine}}
sampler: {kind: ddim, steps: 3, guidance: {scale: 1.5}}
train: {steps: 3, batch_size: 8, parallel: none, workers: 0}
"""
)


@dataclass(frozen=True)
class Files:
    """Where the tiny model lies. Tests only read it."""

    spec: Path
    weights: Path
    inputs: Path
    bundle: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tiny")
    files = Files(folder / "tiny.yaml", folder / "tiny.safetensors", folder / "in.npz", folder / "bundle")
    files.spec.write_text(SPEC)
    write_random_weights(files.spec, files.weights, 0.1)
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    np.savez(files.inputs, x=x, t=np.array([3.0, 500.0], np.float32), y=np.array([1, 10]))
    api.compile(files.spec, files.weights, files.bundle)
    return files


@dataclass(frozen=True)
class Result:
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture
def latentc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """Run a command line in this process, in an empty folder; diagnostics are plain text."""
    monkeypatch.chdir(tmp_path)

    def call(*args: object) -> Result:
        capsys.readouterr()
        status = run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Result(status, out, err)

    return call


def command(*args: object, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own."""
    line = [sys.executable, "-m", "latentc", *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]
