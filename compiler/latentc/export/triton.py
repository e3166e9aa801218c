"""A bundle as a model repository for NVIDIA Triton: one model that samples, or an ensemble around the engine.

sampler   one model of the Python backend that runs the bundle with latentc_runtime
ensemble  NAME joins NAME_noise (seeds to noise), NAME_engine (the bundle's one engine) and NAME_images

Both take `seeds` and the program's conditions and settings (a single label is called `classes`), one value per sample
so that requests can share a batch. They return the program's outputs and, if samples are images, `images`. The models
carry their own copy of latentc_runtime.

Source: Triton's documentation of model repositories. Symbols: B batch, N rows of noise.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
from onnx import helper

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES
from latentc.export.folder import new_folder
from latentc.export.store import copy_file
from latentc.export.triton_models import (
    BY_SAMPLE,
    Model,
    Serving,
    config_text,
    engine_call,
    engine_input,
    ensemble_models,
    sampler_models,
)
from latentc.files import shipped
from latentc_runtime.bundle import Bundle, write_manifest
from latentc_runtime.manifest import EngineCall, FileEntry, Manifest, ProgramEntry
from latentc_runtime.sources import Input

Kind = Literal["auto", "ensemble", "sampler"]

MARKER = "latentc.json"
"""The file that identifies a repository as one that latentc wrote and may replace."""


@dataclass(frozen=True)
class Deployment:
    """A written repository: the model that clients call, its kind, the reason for that kind, and all models."""

    model: str
    kind: Literal["ensemble", "sampler"]
    why: str
    models: tuple[str, ...]


def repository_from_bundle(
    bundle: Bundle,
    entry: ProgramEntry,
    folder: Path,
    kind: Kind = "auto",
    name: str | None = None,
    serving: Serving | None = None,
) -> Deployment:
    """Writes the program `entry` of a bundle as the model repository `folder`, which is never visible half-written.

    `name` of the model is by default the bundle's; characters that Triton does not allow are replaced. Raises
    DiagnosticError: E0501, E0502 (the folder), E0507 (a kind that the bundle cannot be served as).
    """
    serving = serving or Serving()
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name or bundle.manifest.name).strip("_") or "model"
    chosen, why = _chosen(bundle.manifest, entry, kind)
    build = ensemble_models if chosen == "ensemble" else sampler_models
    models = build(bundle.manifest, entry, name, serving)
    with new_folder(folder, "Triton repository", MARKER) as target:
        for model in models:
            version = target / model.name / "1"
            version.mkdir(parents=True)
            (version.parent / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
            role = model.name.removeprefix(name)
            if model.backend == "python":
                _write_python(version, bundle, {"": "sampler", "_noise": "noise", "_images": "images"}[role])
            elif not model.steps:
                _write_engine(version, bundle, entry, model)
        made = Deployment(name, chosen, why, tuple(model.name for model in models))
        (target / MARKER).write_text(json.dumps({"bundle": bundle.manifest.name, **vars(made)}, indent=1) + "\n")
    return made


# ---- which kind


def _chosen(manifest: Manifest, entry: ProgramEntry, kind: Kind) -> tuple[Literal["ensemble", "sampler"], str]:
    if kind == "sampler":
        return "sampler", "asked for"
    hindrance = _hindrance(manifest, entry)
    if kind == "ensemble" and hindrance is not None:
        message = f"this bundle cannot be an ensemble: {hindrance}"
        raise DiagnosticError.of("E0507", message, help="use `--kind sampler`")
    if kind == "ensemble":
        return "ensemble", "asked for"
    if hindrance is None and (triton := ENGINES[manifest.engine].triton) is not None:
        hindrance = triton.why_not_ensemble
    if hindrance is not None:
        return "sampler", hindrance
    return "ensemble", f"the engine is a single file, which Triton runs itself ({entry.form})"


def _hindrance(manifest: Manifest, entry: ProgramEntry) -> str | None:
    """Why Triton cannot run the engine itself; None if it can."""
    if entry.form == "host":
        return "its loop runs on the host"
    if len(entry.program) != 1 or not isinstance(call := entry.program[0], EngineCall):
        return "its engine consists of several files"
    if {*call.inputs.values()} != {i.name for i in entry.inputs}:
        return "its engine does not take the program's inputs"
    if not {o.variable for o in entry.outputs} <= call.outputs.keys():
        return "its engine does not return the program's outputs"
    engine = ENGINES[manifest.engine]
    if engine.triton is None:
        return f"Triton has no backend for {engine.title}"
    if engine.triton.precisions is not None and manifest.precision not in engine.triton.precisions:
        return f"Triton's {engine.title} backend cannot be configured to compute in {manifest.precision}"
    if any(plan.stripped for plan in manifest.plans):
        return "its plans hold no weights"
    if engine.triton.samples_first and any(i.rows is not None for i in entry.inputs):
        return "its plan takes noise with the step axis first, but Triton batches along the first axis"
    return None


# ---- the files of a model


def _write_python(version: Path, bundle: Bundle, role: str) -> None:
    """Writes model.py and what it imports; the sampler model gets the whole bundle, the others its manifest."""
    templates = shipped.folder("templates") / "triton"
    shutil.copyfile(templates / f"{role}.py", version / "model.py")
    shutil.copyfile(templates / "served.py", version / "served.py")
    runtime = Path(latentc_runtime.__file__).parent

    def _unused(folder: str, names: list[str]) -> set[str]:
        """Of the runtime, what Triton serves without: its own server with the page, and the client of it."""
        further = {"serve", "client.py"} if Path(folder) == runtime else set()
        return {name for name in names if name == "__pycache__" or name in further}

    shutil.copytree(runtime, version / "latentc_runtime", ignore=_unused)
    if role != "sampler":
        shutil.copyfile(bundle.path("manifest.json"), version / "manifest.json")
        return
    target = version / "bundle"
    manifest = bundle.manifest
    for name, source in _files(bundle, (*manifest.files, *manifest.references)).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, target / name)
    # The copy may be served elsewhere, so it holds the referenced files too.
    own = {n: FileEntry(r.sha256, r.size) for n, r in manifest.references.items()}
    write_manifest(target, replace(manifest, files={**manifest.files, **own}, references={}))


def _write_engine(version: Path, bundle: Bundle, entry: ProgramEntry, model: Model) -> None:
    if model.plans:
        for plan in model.plans.values():
            copy_file(bundle.path(plan), version / plan)
        return
    triton = ENGINES[bundle.manifest.engine].triton
    place = version / "model.onnx" if triton is not None and triton.folder else version
    place.mkdir(exist_ok=True)
    graph = onnx.load(str(bundle.path(engine_call(entry).file)), load_external_data=False)
    _batch_first(graph.graph, [i for i in entry.inputs if i.rows is not None], entry)
    (place / "model.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    wanted = [n for n in (*bundle.manifest.files, *bundle.manifest.references) if n.startswith("weights/")]
    for name, source in _files(bundle, wanted).items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, place / name)


def _files(bundle: Bundle, names: Sequence[str]) -> dict[str, Path]:
    references = bundle.manifest.references
    return {n: Path(references[n].location) if n in references else bundle.path(n) for n in names}


def _batch_first(graph: onnx.GraphProto, inputs: Sequence[Input], entry: ProgramEntry) -> None:
    """Replaces inputs [N, B, ...] by [B, N, ...]; a Transpose in front restores the order that the graph expects."""
    for given in inputs:
        inner = engine_input(entry, given.name).removesuffix(BY_SAMPLE)
        declared = next((value for value in graph.input if value.name == inner), None)
        if declared is None or len(declared.type.tensor_type.shape.dim) < 2:
            message = f"the engine has no input `{inner}` with a row per step, which the manifest names"
            raise DiagnosticError.of("E0507", message, help="compile the bundle again with `latentc compile`")
        declared.name += BY_SAMPLE
        dims = declared.type.tensor_type.shape.dim
        first, second = (type(dims[0]).FromString(dims[k].SerializeToString()) for k in (0, 1))
        dims[0].CopyFrom(second)
        dims[1].CopyFrom(first)
        perm = [1, 0, *range(2, len(dims))]
        graph.node.insert(0, helper.make_node("Transpose", [declared.name], [inner], perm=perm))
