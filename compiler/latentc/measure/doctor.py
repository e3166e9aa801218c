"""Checks of this machine: packages, devices, memory, engines, and one tiny model from spec to samples."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES
from latentc.engines.contract import Finding, installed, package
from latentc.files import shipped
from latentc.measure.forward import BACKENDS, run_method
from latentc.measure.memory import available_memory
from latentc.measure.metrics import relative_error
from latentc.measure.tolerances import TOLERANCES
from latentc_runtime.backends.cuda import Cuda
from latentc_runtime.errors import BundleError

# module -> (distribution that has it, what for, how to get it)
_OPTIONAL = {
    "torch": ("torch", "train, forward --backend torch, verify", 'pip install "latentc[torch]"'),
    "tensorboard": ("tensorboard", "curves of a training", 'pip install "latentc[torch]"'),
    "wandb": ("wandb", "curves on Weights & Biases (train.log)", 'pip install "latentc[wandb]"'),
    "mlflow": ("mlflow-skinny", "curves in MLflow (train.log)", 'pip install "latentc[mlflow]"'),
    "fastapi": ("fastapi", "latentc serve", 'pip install "latentc[serve]"'),
    "sklearn": ("scikit-learn", "the digits data set", 'pip install "latentc[demo]"'),
}
_TINY = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2")


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
        """One line per finding, and how to mend what is not ok."""
        width = max(len(finding.name) for finding in self.findings)
        lines = []
        for f in self.findings:
            lines.append(f"{f.state:8}{f.name:{width}}  {f.detail}".rstrip())
            if f.help:
                lines.append(f"{'':8}{'':{width}}  → {f.help}")
        return "\n".join(lines) + "\n"


def diagnose() -> Health:
    """Examine everything; takes a few seconds if torch is installed. Raises nothing."""
    return Health((*_system(), *_packages(), *_components(), *engines(), *_folders(), *_backends()))


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
        detail = ", ".join(devices) or "no CUDA device: training runs on the CPU"
        yield Finding("torch devices", "ok", detail)


def _components() -> Iterator[Finding]:
    """The user's component packages, with the kinds that they add."""
    from latentc.components import load, packages

    try:
        for package in packages.own():
            added = [f"{folder}: {', '.join(kinds)}" for folder, kinds in package.components.items()]
            yield Finding(f"components {package.name}", "ok", f"{'; '.join(added)} (from {package.source})")
        for folder in packages.folders():
            load(folder)
    except DiagnosticError as problem:
        first = problem.diagnostics[0]
        yield Finding("components", "fault", first.message, first.help or "")


def engines() -> Iterator[Finding]:
    """The GPU, then engine by engine: version, devices, and the command that installs what is missing."""
    gpu: Cuda | None = None
    version = installed("cuda-python") or installed("cuda-bindings")
    name = f"cuda-python {version}" if version else "cuda-python"
    try:
        gpu = Cuda()
        yield Finding("cuda-python", "ok", f"{name}; GPU {gpu.capability}, driver for CUDA {gpu.driver}")
    except BundleError as error:
        yield Finding("cuda-python", "missing", f"for plans on a GPU: {error.message}", error.help or "")
    for engine in ENGINES.values():
        yield from engine.doctor(gpu)
    command = 'pip install "latentc[tensorrt]"'
    yield package("polygraphy", "polygraphy", ("polygraphy",), "building plans of TensorRT", command)
    command = 'pip install "tritonclient[grpc]"'
    yield package("triton client", "tritonclient.grpc", ("tritonclient",), "asking a Triton server", command)
    server = shutil.which("tritonserver")
    if server is not None:
        yield Finding("triton server", "ok", server)
        return
    docker = "" if shutil.which("docker") else "; docker is not here either"
    mend = "serve what `latentc deploy triton` writes with NVIDIA's image `tritonserver`, of a version ending in -py3"
    yield Finding("triton server", "missing", f"no `tritonserver` on the path{docker}", mend)


def _folders() -> Iterator[Finding]:
    try:
        count = len(shipped.shipped_specs())
        pages = len(list((shipped.folder("templates") / "explain").glob("*.md")))
        yield Finding("data files", "ok", f"{count} specs, {pages} pages of explanation")
    except OSError as error:
        yield Finding("data files", "fault", str(error), "install latentc again")


def _backends() -> Iterator[Finding]:
    """A tiny network on each backend, compared with the oracle."""
    from latentc.checkpoint import buffer, computed, network_params
    from latentc.lower import lower
    from latentc.spec import load_spec
    from latentc.weights import Array

    spec = load_spec("digits_dit", None, _TINY)
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    weights = {
        name: buffer(param)
        if computed(param)
        else Array((rng.standard_normal([int(d) for d in param.type.shape]) * 0.1).astype(np.float32))  # type: ignore[arg-type]
        for name, param in network_params(lowered, lowered.networks["main"]).items()
    }
    inputs = {"x": rng.standard_normal((2, 1, 8, 8)), "t": np.array([1.0, 500.0]), "y": np.array([0, 3])}
    reference = run_method(spec, lowered, weights, inputs)["out"]
    for backend in BACKENDS:
        if backend == "oracle":
            continue
        name = f"backend {backend}"
        try:
            error = relative_error(run_method(spec, lowered, weights, inputs, backend)["out"], reference)
        except DiagnosticError as problem:
            first = problem.diagnostics[0]
            state = "missing" if first.code == "E0706" else "fault"
            yield Finding(name, state, first.message, first.help or "")
        except Exception as problem:  # a broken machine can make an engine raise anything; that is what to report
            yield Finding(name, "fault", f"{type(problem).__name__}: {problem}".splitlines()[0])
        else:
            if error > TOLERANCES["fp32"].forward:
                yield Finding(name, "fault", f"a tiny network is off by {error:.1e}", "reinstall the package")
            else:
                yield Finding(name, "ok", f"a tiny network agrees with the oracle to {error:.1e}")
