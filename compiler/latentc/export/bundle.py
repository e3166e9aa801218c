"""Compiles a lowered spec and its weights into a bundle, the folder that the runtime samples from."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto

from latentc import __version__
from latentc.components.contract import Lowered, OutputField, Program
from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES
from latentc.engines.contract import versions
from latentc.export.folder import new_folder
from latentc.export.forms import Form, choose_form, ends_early, for_form
from latentc.export.fusion import fusion_of, require_fused
from latentc.export.host import carry_stacks, program_from_module
from latentc.export.onnx import OPSET, flat_module, onnx_from_module
from latentc.export.plans import with_profiles, write_plans
from latentc.export.store import FileTensors
from latentc.ir.core import Function, Module, Param, only_entry, parameters
from latentc.ir.verify import verify
from latentc.passes.decompose import looped_attentions
from latentc.weights import Array, Expr, by_path
from latentc_runtime.bundle import MANIFEST, write_manifest
from latentc_runtime.hashes import HashCache
from latentc_runtime.manifest import (
    FORMAT,
    RESULT,
    EngineCall,
    Loop,
    Manifest,
    Output,
    ProgramEntry,
    ProgramOutput,
    Reference,
    Statement,
)
from latentc_runtime.sources import Setting

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def onnx_from_network(
    lowered: Lowered, network: str, method: str, weights: Mapping[str, Expr], folder: Path, opset: int = OPSET
) -> tuple[Path, dict[str, Path]]:
    """Writes one method of a network as `folder`/model.onnx, its weights by reference; `lowered` is after all passes.

    `weights` are by the network's own paths. Inputs have the method's names, outputs those of `result_names`. Returns
    the file and {name in the file: weight file}, the arguments of `Backend.engine`. Raises DiagnosticError.
    """
    entry = f"{network}.{method}"
    flat = verify(flat_module(only_entry(lowered.module, entry), entry, opset=opset), "inlined")
    tensors = FileTensors(weights)
    results = result_names(len(flat.entry(entry).outputs))
    model = onnx_from_module(flat, entry, tensors, opset, results, name=entry)
    external = tensors.write(folder, by_reference=True)
    if (folder / "weights").exists():
        external.update({f"weights/{path.name}": path for path in (folder / "weights").iterdir()})
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path, external


def result_names(count: int) -> list[str]:
    """Output names of a network's engine: `out`, or `out.0`, `out.1`, … if there are several."""
    return [RESULT] if count == 1 else [f"{RESULT}.{i}" for i in range(count)]


class _Engines:
    """The ONNX files of a bundle that is being written; files that turn out equal are written once."""

    def __init__(self, tensors: FileTensors, opset: int) -> None:
        self.tensors, self.opset = tensors, opset
        self.models: dict[str, ModelProto] = {}
        self.modules: dict[str, Module] = {}  # the source of each model
        self.written_out: dict[str, int] = {}  # {file: attentions written out as several ops that the engine must fuse}

    def add(self, role: str, module: Module, entry: str, outputs: Sequence[str] = ()) -> str:
        numbers = itertools.count(2)
        name = f"{role}.onnx"
        while name in self.models:
            name = f"{role}-{next(numbers)}.onnx"
        self.modules[name] = module
        self.models[name] = onnx_from_module(module, entry, self.tensors, self.opset, outputs, name="latentc")
        return name

    def write(self, folder: Path, by_reference: bool) -> dict[str, str]:
        """Writes and checks the files; returns {name: file}, the same file for equal models."""
        first: dict[bytes, str] = {}
        names: dict[str, str] = {}
        for name, model in self.models.items():
            text = model.SerializeToString(deterministic=True)
            names[name] = first.setdefault(hashlib.sha256(text).digest(), name)
            if names[name] != name:
                continue
            (folder / name).write_bytes(text)
            if by_reference:  # the checker requires external data in the folder, so weights become inputs for it
                onnx.checker.check_model(_weights_as_inputs(model))
            else:
                onnx.checker.check_model(str(folder / name))
        return names


def _weights_as_inputs(model: ModelProto) -> ModelProto:
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.graph.initializer[:]
    for tensor in model.graph.initializer:
        if tensor.external_data:
            bare.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            bare.graph.initializer.append(tensor)
    return bare


def bundle_from_lowered(
    lowered: Lowered,
    spec: Spec,
    weights: Mapping[str, Mapping[str, Expr]],
    folder: Path | str,
    *,
    spec_text: str,
    form: Form | str = "auto",
    by_reference: bool = False,
    max_batch: int | None = None,
    opset: int = OPSET,
    provenance: Mapping[str, Any] | None = None,
    made_from: str = "",
    progress: Callable[[str], None] | None = None,
    check: Callable[[], None] | None = None,
    measured: Mapping[str, np.ndarray[Any, Any]] | None = None,
    finish: Callable[[Path, Manifest], Manifest] | None = None,
) -> Manifest:
    """Compiles every sampling program of `lowered` into the bundle `folder`; the programs share the weights.

    lowered: after the target's passes (`latentc.pipeline.optimised`).
    weights: {network: {the network's own path: tensor}}. measured: tensors from calibration, by whole path.
    spec_text: the resolved YAML, which the bundle keeps. made_from, provenance: for the manifest.
    progress: called with the name of each stage.
    check: called when all weights have been read; raises if they changed meanwhile.
    finish: called with the complete folder and its manifest; may run the bundle, add files and change the manifest.

    The bundle is written under a temporary name and renamed, so it is never visible half-written. Raises
    DiagnosticError: E0410 (weights that do not fit), E0412, E0413 (reading and writing weights), E0501 (the bundle
    cannot be written), E0502 (the folder holds something else), E0503 (a form the sampler cannot take), E0504 to E0506
    (plans), E0509 (an attention that is not one operator).
    """
    tell = progress or (lambda stage: None)
    planned = with_profiles(spec.target, max_batch, by_reference)
    max_batch = max_batch if planned is None else max(profile.max for profile in planned.profiles)
    everything = by_path(weights) | {path: Array(array) for path, array in (measured or {}).items()}
    tensors = FileTensors(everything)
    engines = _Engines(tensors, opset)
    tell("writing the graph")
    programs = [_program(lowered, program, engines, form, max_batch, spec) for program in lowered.programs]
    files = set(_files(programs[0].program)) if programs else set()
    attentions = lowered.facts.get(f"attentions of {lowered.programs[0].entry}", 0) if programs else 0
    fusion = fusion_of([engines.models[f] for f in files], [engines.modules[f] for f in files], attentions)
    require_fused(fusion, spec.target.engine, opset)
    with new_folder(Path(folder)) as target:
        tell("writing the weights")
        left = tensors.write(target, by_reference)
        made: dict[str, Param] = {}
        for program in lowered.programs:
            made |= parameters(lowered.module, lowered.module.entries[program.entry])
        tensors.write_kept(target, made)
        tokenizers = _write_tokenizers(target, lowered, programs)
        tell("checking the graph")
        names = engines.write(target, by_reference)
        written_out = {name: engines.written_out.get(name, 0) for name in names.values()}
        plans = () if planned is None else write_plans(target, written_out, planned, tell)
        (target / "spec.yaml").write_text(spec_text, encoding="utf-8")
        tell("hashing")
        held = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
        cache = HashCache()
        entries = cache.hashes(left)
        if check is not None:
            check()
        references = {n: Reference(e.sha256, e.size, str(left[n])) for n, e in entries.items()}
        manifest = Manifest(
            format=FORMAT,
            name=spec.name,
            tool=f"latentc {__version__}",
            versions={"opset": str(opset), **versions(spec.target.engine)},
            spec_sha256=hashlib.sha256(spec_text.encode()).hexdigest(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            conditions=tuple(replace(c, tokenizer=_name(c.tokenizer, tokenizers)) for c in lowered.conditions),
            settings=_settings(lowered),
            programs=tuple(_with_files(p, names, tokenizers) for p in programs),
            weights=dict(provenance or {}),
            files=cache.hashes({name: target / name for name in held}),
            references=references,
            engine=spec.target.engine,
            precision=spec.target.precision,
            plans=plans,
            made_from=made_from,
            fusion=fusion,
        )
        if finish is not None:
            write_manifest(target, manifest)
            manifest = finish(target, manifest)
            there = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
            added = cache.hashes({name: target / name for name in sorted(there - {MANIFEST, *manifest.files})})
            manifest = replace(manifest, files=manifest.files | added)
        cache.save()
        write_manifest(target, manifest)
    return manifest


def _write_tokenizers(folder: Path, lowered: Lowered, programs: Sequence[ProgramEntry]) -> dict[str, str]:
    """Copies the tokenizers of texts into the folder; returns {file: its name there}. Raises DiagnosticError E0401."""
    named = [condition.tokenizer for condition in lowered.conditions]
    named += [one.output.tokenizer for program in programs for one in program.outputs]
    files = dict.fromkeys(file for file in named if file is not None)
    names = {file: f"tokenizer{f'-{i}' if i > 1 else ''}.json" for i, file in enumerate(files, 1)}
    for file, name in names.items():
        try:
            shutil.copyfile(file, folder / name)
        except OSError as error:
            message = f"the tokenizer {file} cannot be read: {error.strerror or error}"
            raise DiagnosticError.of("E0401", message, help="name its file in `data.fields`: `tokenizer:`") from None
    return names


def _name(file: str | None, names: Mapping[str, str]) -> str | None:
    return None if file is None else names[file]


def _with_files(program: ProgramEntry, engines: Mapping[str, str], tokenizers: Mapping[str, str]) -> ProgramEntry:
    """A program with the names that files have in the bundle."""
    outputs = tuple(
        replace(one, output=replace(one.output, tokenizer=_name(one.output.tokenizer, tokenizers)))
        for one in program.outputs
    )
    return replace(program, program=_renamed(program.program, engines), outputs=outputs)


def _program(
    lowered: Lowered,
    program: Program,
    engines: _Engines,
    form: str,
    max_batch: int | None,
    spec: Spec,
) -> ProgramEntry:
    """Adds the engines of a program to `engines`; returns the program's entry in the manifest."""
    module = only_entry(lowered.module, program.entry)
    chosen, why = choose_form(module, program, max_batch, spec.target.engine) if form == "auto" else (form, "asked for")
    if chosen == "unroll" and ends_early(module):
        message = f"`{program.name}` stops as soon as it can; unrolled, it would always run all {program.steps} steps"
        raise DiagnosticError.of("E0503", message, help="use form `loop` or `host`")
    fn, inputs = module.entry(program.entry), program.inputs(module)
    several = sum(other.name == program.name for other in lowered.programs) > 1
    suffix = f"-{program.steps}" if several else ""
    prefix = "" if program.name == lowered.programs[0].name else f"{program.name}."
    row = ENGINES[spec.target.engine]
    kernels = row.attention == "kernel" and chosen == "loop"
    written_out = looped_attentions(module, program.entry) if kernels else 0
    module = verify(for_form(module, chosen, row), "expanded")
    statements: list[Statement]
    if chosen == "host":
        flat = verify(carry_stacks(flat_module(module, program.entry, opset=engines.opset)), "inlined")
        try:
            statements, variables = program_from_module(
                flat,
                program.entry,
                {i.name: i.rows for i in inputs if i.rows is not None},
                lambda role, part: engines.add(prefix + role + suffix, part, "main"),
                any_trip=row.any_trip,
                inner_loops=row.inner_loops,
            )
        except ValueError as error:
            raise DiagnosticError.of(
                "E0503", f"the sampler cannot be driven by the host: {error}", help="use form `loop`"
            ) from error
    else:
        flat = verify(flat_module(module, program.entry, chosen == "unroll", engines.opset), "inlined")
        variables = [f"{RESULT}.{i}" if i else RESULT for i in range(len(fn.outputs))]
        file = engines.add(program.name + suffix, flat, program.entry, variables)
        engines.written_out[file] = written_out
        calls = {v.name: v.name for v in fn.inputs}
        statements = [EngineCall("engine", file, calls, {name: name for name in variables})]
    return ProgramEntry(
        name=program.name,
        steps=program.steps,
        solver=program.solver,
        form=chosen,  # type: ignore[arg-type]
        max_batch=max_batch,
        why=why,
        inputs=inputs,
        outputs=program_outputs(program, fn, variables, spec),
        program=tuple(statements),
        branches=program.branches,
        chunk=program.chunk,
    )


def program_outputs(program: Program, fn: Function, variables: Sequence[str], spec: Spec) -> tuple[ProgramOutput, ...]:
    """The outputs of a program; by default samples of the field that the network models."""
    fields = spec.data.fields
    declared = program.outputs or (OutputField("samples", "x" if "x" in fields else "tokens"),)
    made = []
    for one, value, variable in zip(declared, fn.outputs, variables, strict=True):
        shape = tuple(int(d) for d in value.type.shape[1:])  # type: ignore[arg-type]
        field = fields[one.field] if isinstance(one.field, str) else one.field
        medium = {} if field is None else {name: getattr(field, name) for name in _MEDIUM}
        made.append(ProgramOutput(one.name, variable, Output(shape, value.type.dtype, **medium)))  # type: ignore[arg-type]
    return tuple(made)


# Properties of a field that say how its samples are written and shown.
_MEDIUM = ("medium", "axes", "range", "classes", "rate", "grid", "alphabet", "tokenizer", "start", "end")


def _settings(lowered: Lowered) -> tuple[Setting, ...]:
    """The settings of all programs, each once."""
    found: dict[str, Setting] = {}
    for setting in (s for program in lowered.programs for s in program.settings):
        if found.setdefault(setting.name, setting) != setting:
            raise ValueError(f"two programs declare the setting {setting.name} differently")
    return tuple(found.values())


def _renamed(program: Sequence[Statement], names: Mapping[str, str]) -> tuple[Statement, ...]:
    return tuple(
        replace(s, file=names[s.file]) if isinstance(s, EngineCall) else replace(s, body=_renamed(s.body, names))
        for s in program
        if isinstance(s, EngineCall | Loop)
    )


def _files(program: Sequence[Statement]) -> Iterator[str]:
    """The engine files that a program calls."""
    for statement in program:
        if isinstance(statement, EngineCall):
            yield statement.file
        elif isinstance(statement, Loop):
            yield from _files(statement.body)
