"""Runs a finished bundle once, so that `compile` reports success only for a bundle that samples here."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.engines import ENGINES
from latentc.export.fusion import graphs
from latentc.ir.costs import flops
from latentc.measure.memory import available_memory
from latentc_runtime import BundleError, load
from latentc_runtime.bundle import write_manifest
from latentc_runtime.hashes import hash_file
from latentc_runtime.manifest import FileEntry, Manifest, ProgramEntry, Reference

WHOLE = 1e11
"""FLOPs of one sample up to which the loops inside an engine run to their end; otherwise they run one step."""

LARGEST = 2e12
"""FLOPs of the run beyond which the bundle is not run: about ten seconds of two cores."""

COPIES = 3
"""Free memory that a run needs, in sizes of the weights."""

ABSENT = ("E0606", "E0613")
"""Codes of the runtime's errors that say that an engine does not run on this machine."""

UNROLLED = 8
"""Network evaluations up to which form `unroll` is tried in place of another form."""


def check_runs(
    folder: Path,
    manifest: Manifest,
    lowered: Lowered,
    build: Callable[[str, Path], object],
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> bool:
    """Opens the bundle in `folder` and runs each of its samplers for one sample; long loops run one step.

    Returns whether the engine runs here.

    `lowered` has been through the passes; `build(form, path)` compiles the same bundle in another form. `warn` is
    called if the engine does not run here, or if the bundle was not run. DiagnosticError E0512 if the engine fails,
    with its message and a form that works.
    """
    engine = ENGINES[manifest.engine]
    held = sum(entry.size for name, entry in manifest.files.items() if name.startswith("weights/"))
    needed = COPIES * (held + sum(reference.size for reference in manifest.references.values()))
    costs = [_cost(lowered, entry, engine.device) for entry in manifest.programs]
    if needed > available_memory():
        warn(f"the bundle was not run: that might need {needed / 1e9:.0f} GB of memory")
        return False
    tell("running it once")
    for entry, (cost, whole) in zip(manifest.programs, costs, strict=True):
        if cost > LARGEST:
            warn(f"`{entry.name}` of {entry.steps} steps was not run: one run needs {cost / 1e12:.0f} TFLOP")
            continue
        try:
            _run(folder, manifest, entry, whole, engine.device)
        except BundleError as error:
            if error.code in ABSENT:
                warn(f"the bundle was not run: {engine.title} does not run on this machine ({error.message})")
                return False
            tell("looking for a form that runs")
            form = _other_form(lowered, manifest, entry, build, engine.device)
            found = f"use `target.form: {form}`, in which it runs" if form else "no other form runs; try another engine"
            message = f"{engine.title} cannot run the finished bundle in form `{entry.form}`"
            raise DiagnosticError(Diagnostic("E0512", message, notes=(error.message,), help=found)) from error
    return True


def _cost(lowered: Lowered, entry: ProgramEntry, device: str) -> tuple[float, bool]:
    """FLOPs of the run of one sample, and whether it is a whole one."""
    program = lowered.program(entry.name, entry.steps)
    total = float(flops(lowered.module, program.entry))
    step = total / max(program.evaluations, 1)
    if entry.form == "host":
        return step, True  # the runtime runs one step
    if entry.form == "loop" and total > WHOLE and device == "auto":
        return step, False
    return total, True


def _run(folder: Path, manifest: Manifest, entry: ProgramEntry, whole: bool, device: str) -> None:
    """One usual sample. BundleError as the runtime raises it."""
    if whole:
        load(folder, device, verify=False).warm_up(1, entry.steps, entry.name)
        return
    with _shortened(folder, manifest) as short:
        load(short, device, verify=False).warm_up(1, entry.steps, entry.name)


def _other_form(
    lowered: Lowered, manifest: Manifest, entry: ProgramEntry, build: Callable[[str, Path], object], device: str
) -> str | None:
    """The first form, other than the entry's, in which the bundle runs."""
    evaluations = lowered.program(entry.name, entry.steps).evaluations
    forms = ["host", "loop", *(["unroll"] if evaluations <= UNROLLED else [])]
    for form in (form for form in forms if form != entry.form):
        with tempfile.TemporaryDirectory(prefix="latentc-") as beside:
            path = Path(beside) / "bundle"
            try:
                build(form, path)
                load(path, device, verify=False).warm_up(1, entry.steps, entry.name)
            except (BundleError, DiagnosticError):
                continue
            return form
    return None


@contextlib.contextmanager
def _shortened(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """A copy of the bundle whose graphs run one step of each loop; its weights are those of the bundle.

    Inside `folder`, so that a compile that is killed leaves nothing else behind.
    """
    with tempfile.TemporaryDirectory(prefix=".one-step-", dir=folder) as place:
        files, references = {}, dict(manifest.references)
        for name, entry in manifest.files.items():
            if name.endswith(".onnx"):
                model = onnx.load(str(folder / name), load_external_data=False)
                one_step(model.graph)
                path = Path(place, name)
                path.write_bytes(model.SerializeToString(deterministic=True))
                files[name] = FileEntry(hash_file(path).sha256, path.stat().st_size)
            elif name.startswith("weights/"):
                references[name] = Reference(entry.sha256, entry.size, str((folder / name).resolve()))
            elif name.startswith("tokenizer"):
                shutil.copyfile(folder / name, Path(place, name))
                files[name] = entry
        write_manifest(place, replace(manifest, files=files, references=references))
        yield Path(place)


def one_step(graph: GraphProto) -> None:
    """Makes every Loop of a graph run once; its stacked outputs are repeated to keep their shape."""
    constants = {tensor.name: tensor for inner in graphs(graph) for tensor in inner.initializer}
    for inner in reversed(list(graphs(graph))):  # bodies first: replacing a graph's nodes copies them
        nodes = []
        for node in inner.node:
            nodes.append(node)
            if node.op_type == "Loop":
                nodes += _once(inner, node, int(numpy_helper.to_array(constants[node.input[0]]).item()))
        del inner.node[:]
        inner.node.extend(nodes)


def _once(graph: GraphProto, loop: NodeProto, trip: int) -> list[NodeProto]:
    """Sets a loop's trip count to 1; returns the nodes that repeat its stacked outputs."""

    def constant(name: str, value: Sequence[int] | int) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.int64), name))
        return name

    loop.input[0] = constant(f"{loop.output[0]}/trip", 1)
    body, carried = next(a.g for a in loop.attribute if a.name == "body"), len(loop.input) - 2
    repeated = []
    for i, value in enumerate(body.output[1 + carried :], carried):
        name, loop.output[i] = loop.output[i], f"{loop.output[i]}/once"
        repeats = constant(f"{name}/repeats", [trip, *(1 for _ in value.type.tensor_type.shape.dim)])
        repeated.append(helper.make_node("Tile", [loop.output[i], repeats], [name]))
    return repeated
