"""Emits the project of a spec if it does not exist, and runs its train.py."""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_files, project_from_lowered
from latentc.emit.model import SUPPORT
from latentc.emit.project import SPEC, as_bytes
from latentc.spec import Spec
from latentc.spec.named import exists

if TYPE_CHECKING:
    from latentc.weights.in_memory import Weights


def emitted_project(lowered: Lowered, spec: Spec, folder: Path) -> Path:
    """Emits the project of a spec into `folder` if it does not exist; returns the folder.

    Raises DiagnosticError: E0708 for a spec without objective, E0709 if the folder contains a different project, E0510
    and E0511 from emitting.
    """
    if not lowered.updates:
        mend = "add an `objective:` section (docs/training.md)"
        raise DiagnosticError.of("E0708", f"the spec `{spec.name}` has no objective to train", help=mend)
    if not (folder / "train.py").is_file():
        project_from_lowered(lowered, spec, folder)
        return folder
    for name, content in project_files(lowered, spec).items():
        file = folder / name
        if name == f"{SUPPORT}/{SPEC}":  # other parts of the spec, such as its target, may have changed
            continue
        if not file.is_file() or file.read_bytes() != as_bytes(content):
            message = f"{file} is not what this spec emits: the folder holds another project, or one that was modified"
            mend = f"train the existing project with `latentc train {folder}`, or choose another folder with -o"
            raise DiagnosticError.of("E0709", message, help=mend)
    return folder


RATE = 0.1
"""Learning rate of a training that starts from trained weights, as a multiple of the spec's."""


def quantised_start(
    source: str | Path,
    folder: Path | str | None,
    variant: str | None,
    overrides: Sequence[str],
    scheme: str,
    weights: Weights | None,
) -> tuple[Path, Path]:
    """Writes the start of a training for a quantised engine; returns the paths of its spec and of its project.

    Raises DiagnosticError: E0401 to E0413, E0703 (weights), E0708 for a folder of a project, without a sampler or an
    objective, and those of calibrating.
    """
    from latentc.api._common import lowered_spec
    from latentc.checkpoint import network_weights
    from latentc.diagnostics.faults import runtime_errors
    from latentc.quantize.training import written_start

    if (Path(source) / "train.py").is_file():
        mend = "name the spec that the project was emitted from; later, `latentc train PROJECT --resume true`"
        raise DiagnosticError.of("E0708", f"{source} is a project, whose networks are fixed", help=mend)
    overrides = [*overrides, f"optimize.quantize.scheme={scheme}"]
    spec, lowered = lowered_spec(source, variant, overrides)
    if "teacher" in spec.networks:
        mend = "use the spec that `main` was first trained with, in full precision"
        message = f"network `main` of `{spec.name}` already learns from a network `teacher`"
        raise DiagnosticError.of("E0708", message, spec.span("networks", "teacher"), help=mend)
    if not lowered.programs or not lowered.updates:
        what, section = ("sampler to calibrate with", "sampler") if lowered.updates else ("objective", "objective")
        raise DiagnosticError.of("E0708", f"the spec `{spec.name}` has no {what}", help=f"add a `{section}:` section")
    tensors = network_weights(spec, lowered, weights, networks=lowered.sampled)
    project = Path(f"{spec.name}-{scheme.replace('_', '-')}" if folder is None else folder)
    rate = 1.0 if any(text.startswith("train.optimizer") for text in overrides) else RATE
    with runtime_errors():
        start = written_start(spec, lowered, tensors, project.with_name(f"{project.name}-start"), rate)
    return start, project


def run_training(project: Path, arguments: Sequence[str], processes: int, log: Path | None = None) -> None:
    """Runs train.py in its folder with this Python. DiagnosticError E0705 if it fails.

    What it prints goes to the file `log`, if there is one. On Ctrl-C, SIGTERM and a hangup it interrupts train.py and
    waits for it to save a checkpoint.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    with contextlib.nullcontext() if log is None else log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *launcher, "train.py", *arguments], cwd=project, stdout=output, stderr=output
        )
    try:
        status = process.wait()
    except BaseException:
        try:
            process.send_signal(signal.SIGINT)
            process.wait()
        finally:
            process.kill()  # on a second signal
        raise
    if status:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        command = shlex.join(["python", "train.py", *arguments])
        where = "its last lines above" if log is None else f"the last lines of {log}"
        mend = f"{where} say why; to run it yourself: `cd {shlex.quote(str(project))} && {command}`"
        raise DiagnosticError.of("E0705", f"{project / 'train.py'} {how}", help=mend)


def check_pretrained(spec: Spec, project: Path, arguments: Sequence[str]) -> None:
    """DiagnosticError E0401 if pretrained weights are neither in the current folder nor in the project."""
    for name, path in _pretrained(spec):
        named = any(argument.partition("=")[0] == f"--roles.{name}.pretrained" for argument in arguments)
        if not named and not Path(path).is_file() and not (project / path).is_file():
            message = f"network `{name}` starts from the weights in {path}, but there is no such file"
            mend = f"train or convert them first, or choose another file: --set networks.{name}.pretrained=FILE"
            place = spec.span("networks", name, "pretrained")
            raise DiagnosticError.of("E0401", message, place, help=mend)


def _pretrained(spec: Spec) -> list[tuple[str, str]]:
    """(network, file) of the networks that start from weights in a file."""
    networks = [(name, getattr(network, "pretrained", None)) for name, network in spec.networks.items()]
    return [(name, path) for name, path in networks if path is not None]


def from_here(arguments: Sequence[str]) -> list[str]:
    """The arguments for train.py, which runs in the project, with paths of this folder's files made absolute."""
    given, name = [], ""
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if not argument.startswith("--"):
            flag, equals, value = "", "", argument
        reads = _READS.fullmatch((flag if equals else name).replace("-", "_"))
        if (equals or not flag) and reads and value and exists(Path(value)):
            argument = f"{flag}{equals}{Path(value).absolute()}"
        name = flag
        given.append(argument)
    return given


_READS = re.compile(
    r"__(config|(data|held_out)\.(path|captions|fields\.\w+\.tokenizer)|roles\.\w+\.pretrained"
    r"|neighbours\.\w+\.database|(train\.)?evaluate_features)"
)
