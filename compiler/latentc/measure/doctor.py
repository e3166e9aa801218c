"""What of latentc works on this machine: packages, devices, memory, and one tiny model all the way."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latentc import resources
from latentc.diagnostics import DiagnosticError
from latentc.engines.contract import Finding, installed, package
from latentc.measure.engines import engines
from latentc.measure.forward import BACKENDS, run_method
from latentc.measure.memory import available_memory
from latentc.measure.metrics import relative_error
from latentc.measure.tolerances import TOLERANCES

# module -> (distribution that has it, what for, how to get it); the engines have a page of their own
_OPTIONAL = {
    "torch": ("torch", "train, forward --backend torch, verify", 'pip install "latentc[torch]"'),
    "tensorboard": ("tensorboard", "curves of a training", 'pip install "latentc[torch]"'),
    "sklearn": ("scikit-learn", "the digits data set", 'pip install "latentc[demo]"'),
}


@dataclass(frozen=True)
class Health:
    """All findings; `ok` unless one is a fault."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.state != "fault" for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def text(self) -> str:
        """A line a finding, and how to mend what is not ok."""
        width = max(len(finding.name) for finding in self.findings)
        lines = []
        for f in self.findings:
            lines.append(f"{f.state:8}{f.name:{width}}  {f.detail}".rstrip())
            if f.help:
                lines.append(f"{'':8}{'':{width}}  → {f.help}")
        return "\n".join(lines) + "\n"


def diagnose() -> Health:
    """Look at everything; takes a few seconds where torch is installed. Raises nothing."""
    return Health((*_system(), *_packages(), *engines(), *_folders(), *_backends()))


def _system() -> Iterator[Finding]:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    state, mend = ("ok", "") if supported else ("fault", "use Python 3.11 to 3.13")
    yield Finding("python", state, f"{platform.python_version()} at {sys.executable}", mend)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = available_memory()
    shown = f"{memory / 1e9:.1f} GB of memory free, " if np.isfinite(memory) else ""
    yield Finding("machine", "ok", f"{platform.machine()}, {cores} cores, {shown}{platform.system()}")
    space = shutil.disk_usage(tempfile.gettempdir()).free
    state, mend = ("ok", "") if space > 1 << 30 else ("fault", "free some space, or set TMPDIR to another folder")
    yield Finding("temporary folder", state, f"{tempfile.gettempdir()}, {space / 1e9:.1f} GB free", mend)


def _packages() -> Iterator[Finding]:
    for name in ("latentc", "numpy", "onnx", "pydantic", "safetensors"):
        yield Finding(name, "ok", installed(name) or "runs from its source folder")
    for module, (distribution, use, command) in _OPTIONAL.items():
        yield package(module, module, (distribution,), use, command)
    torch = sys.modules.get("torch")
    if torch is not None:
        devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        detail = ", ".join(devices) or "no CUDA device: training uses the CPU"
        yield Finding("torch devices", "ok", detail)


def _folders() -> Iterator[Finding]:
    try:
        count = len(resources.shipped_specs())
        pages = len(list((resources.folder("templates") / "explain").glob("*.md")))
        yield Finding("data files", "ok", f"{count} specs, {pages} pages of explanation")
    except OSError as error:
        yield Finding("data files", "fault", str(error), "install latentc again")


_TINY = """
latentc: 1
name: tiny
data: {kind: npz, classes: 3, shape: [1, 4, 4]}
backbone:
  kind: patch_transformer
  width: 16
  depth: 1
  patch: 2
  positions: {kind: sincos_2d}
  block:
    mixer: {kind: attention, heads: 2}
    feed_forward: {kind: gelu_mlp}
    norm: {kind: layer_norm}
    condition: {kind: adaln_zero}
conditioning: {class: {kind: label}, time: {kind: timestep, frequencies: 16}}
objective: {kind: diffusion}
"""


def _backends() -> Iterator[Finding]:
    """A tiny network by each backend, compared with the oracle."""
    from latentc.checkpoint import buffer, computed, network_params
    from latentc.lower import lower
    from latentc.spec import spec_from_text
    from latentc.weights import Array

    spec = spec_from_text(_TINY)
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    weights = {
        name: buffer(param)
        if computed(param)
        else Array((rng.standard_normal([int(d) for d in param.type.shape]) * 0.1).astype(np.float32))  # type: ignore[arg-type]
        for name, param in network_params(lowered, lowered.networks["main"]).items()
    }
    inputs = {"x": rng.standard_normal((2, 1, 4, 4)), "t": np.array([1.0, 500.0]), "y": np.array([0, 3])}
    reference = run_method(spec, lowered, weights, inputs)["out"]
    for backend in BACKENDS:
        if backend == "oracle":
            continue
        run = functools.partial(run_method, spec, lowered, weights, inputs, backend)
        yield _compared(backend, run, reference)


def _compared(backend: str, run: Callable[[], dict[str, np.ndarray]], reference: np.ndarray) -> Finding:
    name = f"backend {backend}"
    try:
        error = relative_error(run()["out"], reference)
    except DiagnosticError as problem:
        first = problem.diagnostics[0]
        return Finding(name, "missing" if first.code == "E0706" else "fault", first.message, first.help or "")
    except Exception as problem:  # whatever an engine throws on a broken machine is what is to be reported
        return Finding(name, "fault", f"{type(problem).__name__}: {problem}".splitlines()[0])
    if error > TOLERANCES["fp32"].forward:
        return Finding(name, "fault", f"a tiny network is off by {error:.1e}", "install the package again")
    return Finding(name, "ok", f"a tiny network agrees with the oracle to {error:.1e}")


__all__ = ["Health", "diagnose"]
