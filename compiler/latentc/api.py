"""The verbs of latentc as functions: what the command line does, without the printing.

A spec is named as everywhere: a path, a shipped spec's name, or `-` for standard input; `variant` is one of its
variants and `overrides` are texts as `--set` takes them. All raise DiagnosticError for what a caller can mend.
Heavy packages are imported by the functions that need them, so that `check` does not wait for an engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentc import resources
from latentc.diagnostics import CODES, Diagnostic, DiagnosticError, nearest
from latentc.faults import needed, runtime_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from latentc.components.contract import Lowered
    from latentc.export.triton import Deployment
    from latentc.ir.report import FunctionReport
    from latentc.measure.bench import Bench
    from latentc.measure.calibration import Calibration
    from latentc.measure.doctor import Health
    from latentc.measure.report import Report
    from latentc.measure.tune.report import Tuned
    from latentc.pipeline import HoistReport
    from latentc.spec import Spec
    from latentc.spec.sections import Quantize
    from latentc.weights import Expr
    from latentc.weights.files import Files
    from latentc_runtime.manifest import Manifest

Source = str | Path
Backend = Literal["oracle", "torch", "onnx", "openvino"]


# ---- specs


def specs() -> dict[str, tuple[str, ...]]:
    """The specs that ship with latentc, each with the names of its variants."""
    from latentc.spec import variant_names

    return {name: variant_names(name) for name in resources.shipped_specs()}


def check(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> Spec:
    """The spec, read, resolved, checked and lowered once; DiagnosticError with everything that is wrong with it."""
    return _lowered(source, variant, overrides)[0]


def resolved(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> str:
    """The spec as YAML with every default written out."""
    from latentc.spec import resolved_yaml

    return resolved_yaml(check(source, variant, overrides))


def schema() -> dict[str, Any]:
    """The JSON Schema of a spec file, for editors and validators."""
    from latentc.spec import json_schema

    return json_schema()


def init(name: str, kind: Literal["diffusion", "flow", "tokens"] = "diffusion", path: Path | str | None = None) -> Path:
    """Write a commented first spec called `name` to `path` (NAME.yaml); returns where. DiagnosticError E0209, E0412."""
    from latentc.files import write_text
    from latentc.spec import spec_from_text

    file = Path(f"{name}.yaml" if path is None else path)
    text = (resources.folder("templates") / "init" / f"{kind}.yaml").read_text(encoding="utf-8").replace("@NAME@", name)
    spec_from_text(text, str(file))  # a name that a spec cannot have
    if file.exists():
        raise DiagnosticError(Diagnostic("E0412", f"{file} exists already", help="name another file with -o"))
    write_text(file, text)
    return file


def ir(
    source: Source,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    after: str | None = None,
    full: bool = False,
) -> str:
    """The spec in the IR's text form, as lowered or after the target's pass called `after`.

    With `full`, large constants are written out, so that the text parses back. DiagnosticError E0711.
    """
    from latentc.ir.text import text_from_module
    from latentc.pipeline import optimised

    spec, lowered = _lowered(source, variant, overrides)
    if after is not None:
        try:
            lowered = optimised(lowered, spec, after)
        except ValueError as error:
            raise DiagnosticError(Diagnostic("E0711", str(error))) from None
    return text_from_module(lowered.module, full)


def why(source: Source, rule: str, variant: str | None = None, overrides: Sequence[str] = ()) -> str:
    """How often a fusion rule (`attention`; `all` for every one) was applied, and where it nearly was but was not.

    Counts are of distinct functions, whatever the depth. DiagnosticError E0712.
    """
    from latentc.pipeline import fusion_report

    spec, lowered = _lowered(source, variant, overrides)
    report = fusion_report(lowered, spec)
    rules = list(report.applied)
    if rule not in (*rules, "all"):
        close = nearest(rule, rules)
        mend = f"did you mean `{close}`?" if close else f"the rules are {', '.join(rules)}; `all` is every one"
        raise DiagnosticError(Diagnostic("E0712", f"no fusion rule is called {rule!r}", help=mend))
    return "".join(report.why(name) for name in (rules if rule == "all" else [rule]))


def show(
    source: Source, variant: str | None = None, overrides: Sequence[str] = (), svg: Path | str | None = None
) -> dict[str, FunctionReport]:
    """What each network and each sampler of a spec comes to, by entry: weights, flops, memory, part by part.

    `svg`: a file to draw the first network into. DiagnosticError E0412.
    """
    from latentc.files import write_text
    from latentc.ir.reads import weights_read
    from latentc.ir.report import flops, graph_svg, report
    from latentc.lower import lower

    spec, lowered = _lowered(source, variant, overrides)
    networks = [net.methods["forward"] for net in lowered.networks.values()]
    if svg is not None:
        write_text(svg, graph_svg(lowered.module, networks[0]))
    found = {entry: report(lowered.module, entry) for entry in [f"{name}.forward" for name in lowered.networks]}
    optimize = spec.optimize.model_copy(update={"cache": None})
    plain = lower(spec.model_copy(update={"optimize": optimize})).module if spec.optimize.cache else None
    for entry in [program.entry for program in lowered.programs]:
        before = None if plain is None else (flops(plain, entry), weights_read(plain, entry).total)
        reads = weights_read(lowered.module, entry).total
        found[entry] = replace(report(lowered.module, entry), read_bytes=reads, uncached=before)
    return found


def hoisting(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> dict[str, HoistReport]:
    """The weights that each sampler of a spec reads a step, before and after hoisting, by its entry."""
    from latentc.pipeline import hoist_reports

    spec, lowered = _lowered(source, variant, overrides)
    return hoist_reports(lowered, spec)


def doctor() -> Health:
    """What works on this machine."""
    from latentc.measure.doctor import diagnose

    return diagnose()


def explain(code: str) -> str:
    """The page of a diagnostic's code (`E0204`), in Markdown. DiagnosticError E0707."""
    page = resources.explain_page(code.upper())
    if page is None:
        close = nearest(code.upper(), CODES)
        mend = f"did you mean {close}?" if close else "codes stand in brackets: error[E0204]"
        raise DiagnosticError(Diagnostic("E0707", f"there is no code `{code}`", help=mend))
    return page


# ---- networks


def forward(
    source: Source,
    weights: Files,
    inputs: Mapping[str, ArrayLike],
    backend: Backend = "oracle",
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
) -> np.ndarray:
    """One run of the spec's main network on `inputs`, arrays by the names of its inputs (`x`, `t`, `y`).

    `backend`: "oracle" (numpy, f64), "torch" (the emitted model), "onnx" (ONNX Runtime) or "openvino", all f32.
    `names` is a name map of the spec (`official`), `key` picks one state dict of a checkpoint (`ema`).
    """
    from latentc.checkpoint import network_weights
    from latentc.measure.forward import run_network

    spec, lowered = _lowered(source, variant, overrides)
    main = "main" if "main" in lowered.networks else next(iter(lowered.networks))
    tensors = network_weights(spec, lowered, weights, names, key)[main]
    return run_network(spec, lowered, tensors, inputs, backend, main)


def forward_file(source: Source, weights: Files, inputs: Path | str, output: Path | str, *args: Any) -> None:
    """`forward` from an .npz file to an .npz file with the array `out`; further arguments as `forward` takes them."""
    from latentc.files import read_arrays, write_arrays

    write_arrays(output, {"out": forward(source, weights, read_arrays(inputs), *args)})


def convert_weights(
    source: Source,
    weights: Files,
    to: Path | str,
    names: str | None = None,
    to_names: str | None = None,
    key: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Write a checkpoint as one safetensors file under other names; returns the number of tensors.

    `names` is the name map the file follows, `to_names` the one to write by; None is latentc's own names, which the
    emitted project loads.
    """
    from latentc.checkpoint import network_weights, write_weights

    spec, lowered = _lowered(source, variant, overrides)
    tensors = network_weights(spec, lowered, weights, names, key)
    return write_weights(spec, lowered, tensors, to, to_names, {"format": "pt", "spec": spec.name})


# ---- training


def emit(
    source: Source,
    folder: Path | str,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> list[Path]:
    """Write the PyTorch training project of a spec into `folder`; returns its files.

    An earlier project there is replaced file by file, what else lies in it (runs) stays. `force`: also where the folder
    holds files that latentc did not write.
    """
    from latentc.emit import project_from_lowered

    spec, lowered = _lowered(source, variant, overrides)
    return project_from_lowered(lowered, spec, folder, force)


def train(
    source: Source,
    folder: Path | str | None = None,
    arguments: Sequence[str] = (),
    variant: str | None = None,
    overrides: Sequence[str] = (),
    processes: int = 1,
) -> Path:
    """Train in a project's folder, which is returned.

    `source` is such a folder, or a spec, whose project is emitted into `folder` (by default named like the spec) where
    it is not there yet. `arguments` go to the project's train.py (`--steps 1000`), which runs in the folder with this
    Python and its torch, in `processes` processes. Raises DiagnosticError: E0705 where it stops with an error, E0706
    without torch, E0708 for a spec without objective, E0709 where the folder holds another project.
    """
    from latentc.training import emitted_project, paths_from_here, run_training

    project, flags = Path(source), list(arguments)
    if not (project / "train.py").is_file():
        spec, lowered = _lowered(source, variant, overrides)
        project = emitted_project(lowered, spec, Path(spec.name if folder is None else folder))
        flags = [*paths_from_here(spec, project), *flags]
    needed("torch", "training", 'pip install "latentc[torch]"')
    run_training(project, flags, processes)
    return project


# ---- bundles


def compile(
    source: Source,
    weights: Files,
    bundle: Path | str,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    form: Literal["auto", "unroll", "loop", "host"] | None = None,
    steps: Sequence[int] = (),
    max_batch: int | None = None,
    by_reference: bool = False,
    progress: Callable[[str], None] | None = None,
    rebuild: bool = False,
    calibration: Path | str | None = None,
    force: bool = False,
    warn: Callable[[str], None] | None = None,
) -> Manifest:
    """Compile a spec and its weights into the folder `bundle`, which appears whole or not at all.

    A bundle there that is what would be written stays as it is, unless `rebuild`; then `progress` is told nothing.

    `steps`: the step counts it can sample in, the first is the default (else the spec's). `form` and `max_batch` stand
    for the spec's `target`. `by_reference` leaves the weights where they are. `progress` is told each stage.
    With `optimize.quantize`: `calibration` is a file of `calibrate`, else one is made; a quantised engine that is too
    slow or too far off is refused, unless `force`. `warn` is told what was not as asked. Raises DiagnosticError: E0401
    to E0413 (weights), E0501 to E0503, E0703, E0708, E0801 to E0806.
    """
    from latentc.spec import load_spec, resolved_yaml
    from latentc.unchanged import compile_key, unchanged
    from latentc.weights.files import named_files
    from latentc_runtime.hashes import hash_file

    # The passes read the largest batch from the spec, so there it is said.
    overrides = [*overrides, *([f"target.max_batch={max_batch}"] if max_batch else [])]
    sampler = load_spec(source, variant, overrides).sampler if steps else None
    if sampler is not None and "steps" not in type(sampler).model_fields:
        mend = "leave the steps out: this sampler makes as many as a sample has tokens"
        raise DiagnosticError(Diagnostic("E0708", "the sampler of this spec has no number of steps", help=mend))
    # Each count is checked as if the spec said it; the bundle's spec says the first, which is the default.
    counts = [[*overrides, f"sampler.steps={count}"] for count in steps] or [overrides]
    spec = load_spec(source, variant, counts[0])
    text = resolved_yaml(spec)
    files = named_files(weights, list(spec.networks))
    given = {"file": ", ".join(path.name for path in files.values()), "names": names, "key": key}
    options = {**given, "form": form, "steps": list(steps), "by_reference": by_reference, "force": force}
    if calibration is not None:
        # One that is missing is told later, by who reads it.
        options["calibration"] = hash_file(calibration).sha256 if Path(calibration).is_file() else ""
    made_from = compile_key(spec, text, files, options)
    if not rebuild and (manifest := unchanged(Path(bundle), made_from)) is not None:
        return manifest

    from latentc.checkpoint import network_weights
    from latentc.export.bundle import bundle_from_lowered
    from latentc.lower import lower
    from latentc.pipeline import optimised

    if calibration is not None:
        _quantize_section(spec)
    for changed in counts[1:]:
        check(source, variant, changed)
    lowered = lower(spec, steps)
    if not lowered.programs:
        mend = "add `sampler:`, for example `{kind: ddim, steps: 50}`"
        raise DiagnosticError(Diagnostic("E0708", f"the spec `{spec.name}` has no sampler to compile", help=mend))
    tensors = network_weights(spec, lowered, weights, names, key)
    tell, say = progress or (lambda stage: None), warn or (lambda text: None)
    how: dict[str, Any] = {
        "spec_text": text,
        "form": form or spec.target.form,
        "by_reference": by_reference,
        "max_batch": spec.target.max_batch,
        "opset": spec.target.opset,
        "provenance": {name: value for name, value in given.items() if value is not None},
        "made_from": made_from,
    }
    if spec.optimize.quantize is not None:
        from latentc.measure.quantize import quantised_bundle

        file = None if calibration is None else Path(calibration)
        with runtime_errors():
            return quantised_bundle(
                lowered, spec, tensors, Path(bundle), calibration=file, force=force, tell=tell, warn=say, **how
            )
    final = optimised(lowered, spec)
    if spec.target.precision == "fp16":
        from latentc.measure.quantize import check_range

        check_range(lowered, final, spec, _flat(tensors), tell, say)
    return bundle_from_lowered(final, spec, tensors, bundle, progress=progress, **how)


def calibrate(
    source: Source,
    weights: Files,
    output: Path | str,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Calibration:
    """Watch the unquantised networks along their sampler's trajectories, as `optimize.quantize.calibration` says.

    `output` is the .npz file to write, for `compile`. Raises DiagnosticError: E0401 to E0413, E0703, E0708, E0801.
    """
    from latentc.checkpoint import network_weights
    from latentc.measure.calibrate import calibrate as watch
    from latentc.measure.calibration import write_calibration

    spec, lowered = _lowered(source, variant, overrides)
    asked = _quantize_section(spec)
    if not lowered.programs:
        mend = "add `sampler:`, for example `{kind: ddim, steps: 50}`"
        raise DiagnosticError(Diagnostic("E0708", f"the spec `{spec.name}` has no sampler to watch", help=mend))
    tensors = _flat(network_weights(spec, lowered, weights, names, key))
    with runtime_errors():
        found = watch(lowered, spec, tensors, asked, progress)
    write_calibration(output, found)
    return found


def _quantize_section(spec: Spec) -> Quantize:
    if spec.optimize.quantize is None:
        mend = "add `optimize: {quantize: {scheme: int8}}`, or `--set optimize.quantize.scheme=int8`"
        raise DiagnosticError(Diagnostic("E0708", f"the spec `{spec.name}` is not quantised", help=mend))
    return spec.optimize.quantize


def _flat(weights: Mapping[str, Mapping[str, Expr]]) -> dict[str, Expr]:
    """Weights of networks by their whole paths, `main.blocks.0.…`."""
    return {f"{network}.{path}": expr for network, own in weights.items() for path, expr in own.items()}


def fused(manifest: Manifest) -> str:
    """How many attentions, norms and activations of a bundle's default sampler became one operator each, in a line."""
    from latentc.export.fusion import fusion_text

    plans = {plan.capability: 0 for plan in manifest.plans}
    for plan in manifest.plans:
        plans[plan.capability] += plan.fused_attentions
    return fusion_text(manifest.fusion, plans) if manifest.fusion is not None else "nothing is known of its operators"


def sample(
    bundle: Path | str,
    classes: Sequence[int] | str = "all",
    per_class: int = 1,
    seed: int = 0,
    guidance: float | None = None,
    steps: int | None = None,
    noise: Mapping[str, ArrayLike] | Path | str | None = None,
    batch: int | None = None,
    device: str = "auto",
    grid: Path | str | None = None,
    raw: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Samples of a bundle, f32[B, C, H, W] or i64[B, T]: `per_class` of each class in turn, of seeds `seed` and up.

    `classes`: numbers, or a text such as "0-9" or "all". `noise`: arrays, or an .npz file of them, in place of what the
    seeds give. `grid` is a PNG file to write, a row a class; `raw` an .npz file for the samples as they are, array
    `out`. Raises DiagnosticError: E0601 to E0613, E0704, and E0412 where a file cannot be written.
    """
    from latentc.files import read_arrays, write_arrays, write_picture
    from latentc.measure.memory import available_memory
    from latentc.ranges import classes_from_text
    from latentc_runtime import grid as side_by_side
    from latentc_runtime import load

    given = read_arrays(noise) if isinstance(noise, str | Path) else noise
    with runtime_errors():
        pipe = load(bundle, device)
        known = classes_from_text(classes, pipe.manifest.classes) if isinstance(classes, str) else list(classes)
        output = pipe.manifest.output
        # Beside each sample as it is, its picture and what the runtime keeps of it; before the system has to kill us.
        if len(known) * per_class * (math.prod(output.shape) * 16 + 256) > available_memory():
            raise MemoryError
        wanted = [number for number in known for _ in range(per_class)]
        samples = pipe.sample(wanted, seed, guidance, steps, given, progress, batch)
        # Made before anything is written, so that a mistake leaves no file behind.
        sheet = None if grid is None else side_by_side(pipe.images(samples), per_class, gap=2)
    if raw is not None:
        write_arrays(raw, {"out": samples})
    if grid is not None and sheet is not None:
        write_picture(grid, sheet)
    return samples


def verify(
    bundle: Path | str,
    budget: float | None = None,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Compare a bundle's engines with its spec, by the oracle and the emitted PyTorch; see `latentc.measure.verify`.

    `budget`: seconds that it may take. Raises DiagnosticError: E0601 to E0613, E0706.
    """
    from latentc.measure.verify import BUDGET
    from latentc.measure.verify import verify as run

    with runtime_errors():
        return run(bundle, budget=BUDGET if budget is None else budget, device=device, seed=seed, progress=progress)


def bench(
    bundle: Path | str,
    batches: Sequence[int] = (1, 8),
    steps: Sequence[int] = (),
    compare: bool = False,
    seconds: float = 5.0,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Bench:
    """Time a bundle's samplers; see `latentc.measure.bench`. `compare`: beside the emitted PyTorch.

    `seconds` for each case. Raises DiagnosticError: E0601 to E0613, E0706.
    """
    from latentc.measure.bench import bench as run

    with runtime_errors():
        return run(
            bundle, batches=batches, steps=steps, compare=compare, seconds=seconds, device=device, progress=progress
        )


def tune(
    source: Source,
    weights: Files,
    folder: Path | str,
    budget: Sequence[str] = (),
    variant: str | None = None,
    overrides: Sequence[str] = (),
    names: str | None = None,
    key: str | None = None,
    evaluations: Sequence[int] = (),
    samples: int = 256,
    batch: int = 1,
    seed: int = 0,
    seconds: float | None = None,
    metric: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> Tuned:
    """Search for the fewest steps at a quality; see `latentc.measure.tune`. Writes tuned.yaml, a table and plots.

    `budget`: texts such as "error=0.05", "frechet=1.1x" (times the spec's own), "evaluations=10", "seconds=0.2"; by
    default as good as the spec's own sampler. `evaluations`: which numbers of network evaluations to try. `samples`:
    how many candidates are judged on. `batch`: samples that are timed at once. `seconds`: after which the search ends.
    `metric`: FILE.py:FUNCTION that judges samples. DiagnosticError: E0501, E0502, E0706, E0708, E0714 to E0716, and
    those of `compile`.
    """
    from latentc.checkpoint import network_weights
    from latentc.export.plans import ENGINES
    from latentc.measure.tune.budget import bound_from_text
    from latentc.measure.tune.run import Options
    from latentc.measure.tune.run import tune as run

    bounds = tuple(map(bound_from_text, budget))
    spec, lowered = _lowered(source, variant, overrides)
    tensors = network_weights(spec, lowered, weights, names, key)
    by_reference = spec.target.engine not in ENGINES  # plans hold their weights

    def compiled(file: Path, bundle: Path) -> None:
        # Forced: whether a quantised candidate is good and fast enough is what tuning finds out.
        compile(file, weights, bundle, names=names, key=key, by_reference=by_reference, force=True)

    options = Options(bounds, tuple(evaluations), samples, batch, seed, seconds, metric, device)
    plain = None if variant is not None or overrides else source
    with runtime_errors():
        return run(spec, plain, tensors, compiled, Path(folder), options, progress)


def deploy_triton(
    bundle: Path | str,
    repository: Path | str,
    kind: Literal["auto", "ensemble", "sampler"] = "auto",
    name: str | None = None,
    steps: int | None = None,
    instances: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    delay: int = 1000,
    threads: int | None = None,
) -> Deployment:
    """Write a bundle as a model repository of NVIDIA Triton; see `latentc.export.triton`.

    `steps`: which of its samplers (the default one). `instances` and `device` are those of the model that computes,
    `delay` the microseconds that a request may wait for others to share its batch, `threads` an instance's on a CPU.
    Raises DiagnosticError: E0501, E0502, E0507, E0601 to E0605, E0609, E0611.
    """
    from latentc.export.triton import Serving, repository_from_bundle
    from latentc_runtime.bundle import open_bundle
    from latentc_runtime.request import sampler_entry

    with runtime_errors():
        opened = open_bundle(bundle)
        entry = sampler_entry(opened.manifest, steps)
    serving = Serving(instances, device, delay, threads)
    return repository_from_bundle(opened, entry, Path(repository), kind, name, serving)


def _lowered(
    source: Source, variant: str | None, overrides: Sequence[str], steps: Sequence[int] = ()
) -> tuple[Spec, Lowered]:
    from latentc.lower import lower
    from latentc.spec import load_spec

    spec = load_spec(source, variant, overrides)
    return spec, lower(spec, steps)


__all__ = [
    "bench",
    "calibrate",
    "check",
    "compile",
    "convert_weights",
    "deploy_triton",
    "doctor",
    "emit",
    "explain",
    "forward",
    "forward_file",
    "init",
    "ir",
    "resolved",
    "sample",
    "schema",
    "show",
    "specs",
    "train",
    "tune",
    "verify",
]
