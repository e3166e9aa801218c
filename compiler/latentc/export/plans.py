"""Plans from the ONNX files of a bundle, one per file and compute capability (`latentc.engines.contract.Plans`).

Profiles are in samples. An input whose batch is doubled for guidance has twice as many rows; its ONNX dimension is then
`2*B`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from latentc.diagnostics import DiagnosticError
from latentc.engines import ENGINES
from latentc.engines.contract import Plans, installed
from latentc.export import plan_cache
from latentc.export.fusion import graphs
from latentc.spec.sections import Profile, Target
from latentc_runtime.errors import BundleError
from latentc_runtime.hashes import HashCache
from latentc_runtime.manifest import Plan


def with_profiles(target: Target, max_batch: int | None, by_reference: bool) -> Target | None:
    """The section `target` with the profiles of its plans, or None if the engine has none or `target.plans` is false.

    Without profiles, one up to `max_batch`. Raises DiagnosticError E0504 for weights by reference.
    """
    if ENGINES[target.engine].plans is None or not target.plans:
        return None
    if by_reference:
        message = f"plans of {target.engine} hold their weights, so weights cannot stay in their own files"
        mend = "compile without `--by-reference`, or without plans (`--set target.plans=false`)"
        raise DiagnosticError.of("E0504", message, help=mend)
    most = max_batch or target.max_batch
    return target.model_copy(update={"profiles": target.profiles or (Profile(min=1, opt=min(8, most), max=most),)})


def _sizes(target: Target) -> tuple[tuple[int, int, int], ...]:
    """(smallest, optimal, largest batch) of each profile."""
    return tuple((profile.min, profile.opt, profile.max) for profile in target.profiles)


def _builder(target: Target) -> Plans:
    """Capabilities of the engine's plan builder."""
    plans = ENGINES[target.engine].plans
    assert plans is not None  # see `with_profiles`
    return plans


def write_plans(
    folder: Path, models: Mapping[str, int], target: Target, tell: Callable[[str], None]
) -> tuple[Plan, ...]:
    """Builds the plans of the ONNX files `models` {name in `folder`: written-out attentions that must be fused}.

    Attention operators in a file must always be fused. A plan is written beside its file, as `sample.sm89.plan`; a plan
    of the same graph, weights, options, library and machine is taken from the cache. Raises DiagnosticError: E0504 (the
    library refuses the graph or crashes), E0505 (it is missing, or lacks the capability), E0506 (an attention was not
    fused), E0508 (a quantised layer runs unquantised).
    """
    machine = _machine(target)
    plans = []
    for name, expected in models.items():
        model = onnx.load(str(folder / name), load_external_data=False)
        _refuse_unsupported(name, model, _builder(target).largest_top_k)
        profiles = [profile_shapes(model, sizes) for sizes in _sizes(target)]
        operators = sum(node.op_type == "Attention" for graph in graphs(model.graph) for node in graph.node)
        for capability in target.capabilities or (None,):
            tell(f"building the plan of {name}" + (f" for {capability}" if capability else ""))
            request = {
                "package": _builder(target).package,
                "ahead_of_time": _builder(target).ahead_of_time,
                "model": str(folder / name),
                "plan": str(folder / f"{name.removesuffix('.onnx')}.{capability or 'local'}.plan"),
                "profiles": profiles,
                "capability": capability,
                "version_compatible": target.version_compatible,
                "hardware_compatible": target.hardware_compatible,
                "strip_weights": target.strip_weights,
                "timing_cache": _timing_cache(target, machine),
            }
            key = _key(folder, model, request, machine)
            plans.append(_plan(name, request, key, expected, operators, quantised_dtypes(model), target))
    return tuple(plans)


def profile_shapes(model: ModelProto, sizes: tuple[int, int, int]) -> dict[str, list[list[int]]]:
    """{input: its shapes at the smallest, optimal and largest batch}."""

    def shape(dims: Sequence[Any], samples: int) -> list[int]:
        return [_factor(d.dim_param) * samples if d.dim_param else int(d.dim_value) for d in dims]

    return {i.name: [shape(i.type.tensor_type.shape.dim, n) for n in sizes] for i in model.graph.input}


def _factor(dim: str) -> int:
    """2 of `2*B`."""
    factor, star, _ = dim.rpartition("*")
    return int(factor) if star else 1


@dataclass(frozen=True)
class _Machine:
    """The library's version and, if a GPU builds the plan, its capability and driver; the plan depends on all three."""

    version: str
    capability: str | None = None
    driver: str | None = None


def _machine(target: Target) -> _Machine | None:
    """None if the library or a GPU is missing, which the worker then reports."""
    library = installed(_builder(target).package)
    if library is None or (_builder(target).ahead_of_time and target.capabilities):
        return _Machine(library) if library else None
    from latentc_runtime.backends.cuda import Cuda

    try:
        cuda = Cuda()
    except BundleError:
        return None
    return _Machine(library, cuda.capability, cuda.driver)


def _timing_cache(target: Target, machine: _Machine | None) -> str | None:
    """The file with the builder's kernel timings on this machine, or None if it keeps none."""
    folder = plan_cache.folder_of("timing")
    if not _builder(target).timing_cache or machine is None or folder is None:
        return None
    return str(folder / f"{target.engine}-{machine.version}-{machine.capability}.cache")


def _key(folder: Path, model: ModelProto, request: Mapping[str, Any], machine: _Machine | None) -> str | None:
    """The plan's cache key, a hash of all that it depends on; None if the machine is unknown."""
    if machine is None:
        return None
    initialisers = (tensor for graph in graphs(model.graph) for tensor in graph.initializer)
    external = {entry.value for tensor in initialisers for entry in tensor.external_data[:1]}
    graph = hashlib.sha256(Path(request["model"]).read_bytes()).hexdigest()
    hashes = HashCache()
    weights = {name: hashes.hash(folder / name).sha256 for name in sorted(external)}
    hashes.save()
    free = {name: value for name, value in request.items() if name not in ("model", "plan", "timing_cache")}
    return plan_cache.cache_key({**free, "graph": graph, "weights": weights, "machine": vars(machine)})


def _plan(
    name: str,
    request: Mapping[str, Any],
    key: str | None,
    expected: int,
    operators: int,
    quantised: Collection[str],
    target: Target,
) -> Plan:
    file = Path(request["plan"])
    answer = plan_cache.take(key, file) if key else None
    if answer is None:
        answer = _built(name, request, target)
        if key:
            plan_cache.keep(key, file, answer)
    if request["capability"] is None:
        file = file.rename(file.with_name(file.name.replace(".local.", f".{answer['capability']}.")))
    if answer["attentions"] < operators or answer["fused"] < expected:
        message = (
            f"{name}: only {answer['fused']} of {expected or operators} attentions were fused into one kernel each"
        )
        mend = "use `form: host`, in which attention is one operator of the engine, or `precision: fp32`"
        raise DiagnosticError.of("E0506", message, help=mend)
    _refuse_unquantised(name, quantised, answer.get("products"))
    return Plan(
        file=name,
        plan=file.name,
        engine=target.engine,  # type: ignore[arg-type]
        version=answer["version"],
        capability=answer["capability"],
        precision=target.precision,
        profiles=_sizes(target),
        fused_attentions=answer["fused"],
        hardware_compatible=target.hardware_compatible,
        version_compatible=target.version_compatible,
        stripped=target.strip_weights,
        driver=answer["driver"],
    )


# Names in plans of the dtypes in which quantised layers multiply.
_MULTIPLIES = {
    TensorProto.INT8: "int8",
    TensorProto.FLOAT8E4M3FN: "fp8_e4m3",
    TensorProto.FLOAT4E2M1: "fp4_e2m1",
}


def quantised_dtypes(model: ModelProto) -> set[str]:
    """The dtypes in which products and convolutions should multiply: those whose operands are both quantised."""
    stored = {t.name: t.data_type for graph in graphs(model.graph) for t in graph.initializer}
    found = set()
    for graph in graphs(model.graph):
        made = {name: node for node in graph.node for name in node.output}

        def dequantises(name: str, made: Mapping[str, NodeProto] = made) -> bool:
            node = made.get(name)
            while node is not None and node.op_type == "Reshape":
                node = made.get(node.input[0])
            return node is not None and node.op_type == "DequantizeLinear"

        for node in graph.node:
            if node.op_type in ("Gemm", "Conv") and all(dequantises(name) for name in node.input[:2]):
                found.add(_MULTIPLIES[stored[made[node.input[1]].input[0]]])
    return found


def _refuse_unquantised(name: str, wanted: Collection[str], products: Mapping[str, int] | None) -> None:
    """Raises DiagnosticError E0508 for a plan with no product in a wanted dtype, which quantising only slows down."""
    if missing := set(wanted) - set(products if products is not None else wanted):
        counts = ", ".join(f"{count} in {dtype}" for dtype, count in (products or {}).items())
        message = f"{name}: no layer of the plan multiplies in {sorted(missing)[0]}; its products: {counts or 'none'}"
        mend = "compile without `optimize.quantize`, or with another scheme"
        raise DiagnosticError.of("E0508", message, help=mend)


def _built(name: str, request: Mapping[str, Any], target: Target) -> dict[str, Any]:
    """The report of the worker process, which is ended if an exception (also Ctrl-C) is raised here."""
    command = [sys.executable, "-m", "latentc.export.plan_worker"]
    with tempfile.TemporaryFile() as log:
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            text, _ = worker.communicate(json.dumps(request).encode())
        finally:
            worker.kill()
            worker.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    if worker.returncode != 0 or not text:
        how = (
            "was killed: perhaps there is too little memory"
            if worker.returncode == -9
            else f"ended with {worker.returncode}"
        )
        raise DiagnosticError.of("E0504", f"building the plan of {name} {how}", notes=tuple(_errors(said)))
    answer: dict[str, Any] = json.loads(text)
    match answer.get("error"):
        case "missing":
            package = _builder(target).package
            raise DiagnosticError.of(
                "E0505",
                f"building plans needs {package} and polygraphy: {answer['message']}",
                help=f"run `{ENGINES[target.engine].install}`",
            )
        case "capability":
            mend = "set `target.capabilities` to GPUs that the engine supports"
            raise DiagnosticError.of("E0505", answer["message"], help=mend)
        case "refused":
            notes = tuple(_errors(said)) or (answer["message"],)
            raise DiagnosticError.of(
                "E0504",
                f"{target.engine} cannot build a plan of {name}",
                notes=notes,
                help="another `target.form` or `target.precision` may work; `engine: onnxruntime` accepts the graph",
            )
    return answer


def _errors(log: str) -> Iterator[str]:
    """The first four errors in the library's log, shortened."""
    lines = [line.split("[E]", 1)[1].strip() for line in log.splitlines() if "[E]" in line]
    yield from (line[:500] for line in dict.fromkeys(lines[:4]))


def _refuse_unsupported(name: str, model: ModelProto, largest_top_k: int) -> None:
    """Raises DiagnosticError E0504 for a graph that the library is known to refuse, before a long build."""
    for graph in graphs(model.graph):
        known = {t.name: t for t in (*model.graph.initializer, *graph.initializer)}
        for node in graph.node:
            if node.op_type == "TopK" and node.input[1] in known:
                k = int(numpy_helper.to_array(known[node.input[1]]).max())
                if k > largest_top_k:
                    raise DiagnosticError.of(
                        "E0504",
                        f"{name}: the sampler sorts {k} tokens; TensorRT can sort at most {largest_top_k}",
                        help=f"set `sampler.top_k` to {largest_top_k} or less",
                    )
