"""Verbs that read: checks, reports and plans of a spec, explanations of codes, the state of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentc.api._common import Source, check_data, lowered_spec
from latentc.diagnostics import Diagnostic, DiagnosticError, did_you_mean, nearest
from latentc.files import shipped

if TYPE_CHECKING:
    from latentc.ir.report import FunctionReport
    from latentc.measure.doctor import Health
    from latentc.pipeline import HoistReport
    from latentc.scale import Plan
    from latentc.spec import Spec


FITTED = 20_000
"""Samples that `init` reads of data; `check --data` reads all."""


def specs() -> dict[str, dict[str, tuple[str, ...]]]:
    """The specs that ship with latentc by family, and those of packages, each with the names of its variants."""
    from latentc.components import packages
    from latentc.spec import variant_names

    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, path in shipped.shipped_specs().items():
        found.setdefault(path.parent.name, {})[name] = variant_names(name)
    for name, path in packages.specs().items():
        found.setdefault(path.parents[1].name, {})[name] = variant_names(path)
    return found


def official_checkpoints() -> dict[str, dict[str, str | float | None]]:
    """Official checkpoints by the NAME of `official:NAME`: the spec and variant, and the section's entry."""
    from latentc.spec.official import catalogue

    return {name: {"spec": found.spec, **found.given.model_dump()} for name, found in catalogue().items()}


def check(
    source: Source,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    warn: Callable[[str], None] = lambda text: None,
    data: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Spec:
    """The spec, read, resolved, checked and lowered once; DiagnosticError with everything that is wrong with it.

    Of a file as it stands, without a variant and overrides, the variants that it declares are checked as well (but not
    lowered). Those it only inherits need not fit what it changes. If its data is on this machine, it must be what the
    spec says (E0419); `warn` is called if it is not here, except for shipped specs, or lacks classes. With `data`, all
    samples are read: damaged ones are an error (E0419) unless they are skipped, and `warn` is called for what is
    probably not meant; `progress(done, total)` is called for each.
    """
    from latentc.api.data_files import problems_of_files

    spec, lowered = lowered_spec(source, variant, overrides)
    check_data(spec, lowered)
    if str(source) not in shipped.shipped_specs() or any(text.startswith("data") for text in overrides):
        faults, warnings = problems_of_files(spec)
        if faults:
            raise DiagnosticError(*faults)
        for text in warnings:
            warn(text)
    if data:
        _compare_data(spec, warn, progress)
    if variant is None and not overrides and str(source) != "-":
        _check_variants(source)
    return spec


def _compare_data(spec: Spec, warn: Callable[[str], None], progress: Callable[[int, int], None]) -> None:
    """Reads all data of a spec. DiagnosticError E0401 if it is not here, E0419 for damaged samples."""
    from latentc.api.data_files import missing
    from latentc.spec.named import exists
    from latentc.survey.compare import compared

    path = getattr(spec.data, "path", None)
    if path is None:
        return
    span = spec.span("data", "path") or spec.span("data")
    if not exists(Path(path)):
        raise DiagnosticError.of("E0401", missing(Path(path)), span, help="name data on this machine")
    try:
        faults, warnings = compared(spec, progress)
    except (ValueError, OSError, ImportError) as error:
        raise DiagnosticError.of("E0419", f"the data cannot be read: {error}", span) from None
    for text in warnings:
        warn(text)
    if faults:
        raise DiagnosticError(*faults)


def notes(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Notes on effects of `extends`, a variant and `overrides` that the author may not expect, one line each.

    Nothing for standard input, which can be read once, and for what is not a spec.
    """
    from latentc.spec.resolve import resolve_file

    try:
        return () if str(source) == "-" else resolve_file(str(source), variant, overrides).notes
    except DiagnosticError:
        return ()


def _check_variants(source: Source) -> None:
    from latentc.spec import load_spec, own_variant_names

    faults: dict[Diagnostic, None] = {}  # variants that share a base share its faults
    for name in own_variant_names(source):
        try:
            load_spec(source, name)
        except DiagnosticError as error:
            faults.update(dict.fromkeys(error.diagnostics))
    if faults:
        raise DiagnosticError(*faults)


def resolved(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> str:
    """The spec as YAML with every default written out."""
    from latentc.spec import resolved_yaml

    return resolved_yaml(lowered_spec(source, variant, overrides)[0])


def schema() -> dict[str, Any]:
    """The JSON Schema of a spec file, for editors and validators."""
    from latentc.spec import json_schema

    return json_schema()


def init(
    name: str,
    system: str | None = None,
    path: Path | str | None = None,
    data: Path | str | None = None,
    split: str = "train",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write a commented first spec called `name`, or `name`.yaml, to `path` (NAME.yaml); returns where.

    It starts from the shipped spec `system`, by default `dit`, in its small form for handwritten digits if there is
    one. With `data`, read as by `latentc.api.data`, it fits that: shape, classes, sizes, and steps and batch for this
    machine; `edm` is then the default for samples that `dit` does not take, such as arrays that are not square. A set
    of the Hub is saved to data/NAME. DiagnosticError E0209, E0401, E0412, E0422 to E0424.
    """
    from latentc.files.named import write_text
    from latentc.spec import spec_from_text
    from latentc.spec.first import first_spec

    name = name.removesuffix(".yaml")
    if Path(name).name != name:
        mend = f"write `latentc init NAME -o {name}.yaml`"
        raise DiagnosticError.of("E0209", f"`{name}` is a path; give a model name", help=mend)
    file = Path(f"{name}.yaml" if path is None else path)
    if file.exists():
        raise DiagnosticError.of("E0412", f"{file} exists already", help="name another file with -o")
    first = first_spec(name, system or "dit")
    spec_from_text(first, str(file))  # reports a name that specs cannot have
    text = first if data is None else _fitted(name, system, data, split, file, progress)
    write_text(file, text)
    return file


def _fitted(
    name: str, system: str | None, data: Path | str, split: str, file: Path, progress: Callable[[int, int], None]
) -> str:
    """The text of a spec that fits data. DiagnosticError."""
    from latentc.api.data_files import problems_of_files
    from latentc.spec import spec_from_text
    from latentc.survey import survey
    from latentc.survey.fitted import fitted_spec
    from latentc.survey.machine import this_machine
    from latentc.survey.sections import is_hub_id, saved_from_hub

    if is_hub_id(str(data)):
        data = saved_from_hub(str(data), split, file.parent / "data")
    found, _ = survey(data, FITTED, split, progress)
    text = fitted_spec(name, system, found, this_machine(), file)
    faults, _ = problems_of_files(spec_from_text(text, str(file)))
    if faults:
        raise DiagnosticError(*faults)
    return text


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

    spec, lowered = lowered_spec(source, variant, overrides)
    if after is not None:
        try:
            lowered = optimised(lowered, spec, after)
        except ValueError as error:
            raise DiagnosticError.of("E0711", str(error)) from None
    return text_from_module(lowered.module, full)


def why(source: Source, rule: str, variant: str | None = None, overrides: Sequence[str] = ()) -> str:
    """How often a fusion rule (`attention`; `all` for every one) was applied, and where it nearly was but was not.

    Counts are of distinct functions, whatever the depth. DiagnosticError E0712.
    """
    from latentc.pipeline import fusion_report

    spec, lowered = lowered_spec(source, variant, overrides)
    report = fusion_report(lowered, spec)
    rules = list(report.applied)
    if rule not in (*rules, "all"):
        mend = did_you_mean(rule, rules, f"rules: {', '.join(rules)}; `all` explains every one")
        raise DiagnosticError.of("E0712", f"unknown fusion rule {rule!r}", help=mend)
    return "".join(report.why(name) for name in (rules if rule == "all" else [rule]))


def show(
    source: Source, variant: str | None = None, overrides: Sequence[str] = (), svg: Path | str | None = None
) -> dict[str, FunctionReport]:
    """Costs of each network and each sampler of a spec, by entry: weights, FLOPs, memory, part by part.

    `svg`: a file to draw the first network into. DiagnosticError E0412.
    """
    from latentc.files.named import write_text
    from latentc.ir.costs import flops
    from latentc.ir.draw import graph_svg
    from latentc.ir.report import report, weights_read
    from latentc.lower import lower

    spec, lowered = lowered_spec(source, variant, overrides)
    networks = [net.main.function for net in lowered.networks.values()]
    if svg is not None:
        write_text(svg, graph_svg(lowered.module, networks[0]))
    found = {
        entry: report(lowered.module, entry)
        for entry in [f"{name}.{net.main_method}" for name, net in lowered.networks.items()]
    }
    optimize = spec.optimize.model_copy(update={"cache": None})
    plain = lower(spec.model_copy(update={"optimize": optimize})).module if spec.optimize.cache else None
    for entry in [program.entry for program in lowered.programs]:
        before = None if plain is None else (flops(plain, entry), weights_read(plain, entry).total)
        reads = weights_read(lowered.module, entry).total
        found[entry] = replace(report(lowered.module, entry), read_bytes=reads, uncached=before)
    return found


def class_names(
    source: Source, variant: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """The names of the classes of a spec by condition; empty for labels whose names are not known."""
    from latentc.api.known_names import with_known_names
    from latentc.lower import lower
    from latentc.spec import load_spec

    conditions = lower(with_known_names(load_spec(source, variant, overrides), ())).conditions
    return {c.name: c.names for c in conditions if c.form == "label"}


def plan(source: Source, request: str, variant: str | None = None, overrides: Sequence[str] = ()) -> Plan:
    """Costs of training the spec on the accelerators of a request (`gpus=256,h100`): memory, traffic, time, limits.

    DiagnosticError E0708 (no objective), E0740 (the request was not understood).
    """
    from latentc.scale import parse_request
    from latentc.scale import plan as plan_of

    asked = parse_request(request)
    spec, lowered = lowered_spec(source, variant, overrides)
    return plan_of(spec, lowered, asked)


def hoisting(source: Source, variant: str | None = None, overrides: Sequence[str] = ()) -> dict[str, HoistReport]:
    """The weights that each sampler of a spec reads per step, before and after hoisting, by its entry."""
    from latentc.pipeline import hoist_reports

    spec, lowered = lowered_spec(source, variant, overrides)
    return hoist_reports(lowered, spec)


def doctor() -> Health:
    """Diagnosis of this machine."""
    from latentc.measure.doctor import diagnose

    return diagnose()


def explain(code: str) -> str:
    """The page of a diagnostic's code (`E0204`), in Markdown. DiagnosticError E0707."""
    page = shipped.explain_page(code.upper())
    if page is None:
        close = nearest(code.upper(), shipped.codes())
        mend = f"did you mean {close}?" if close else "codes are shown in brackets: error[E0204]"
        raise DiagnosticError.of("E0707", f"there is no error code `{code}`", help=mend)
    return page
