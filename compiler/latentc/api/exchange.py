"""Checkpoints and pipelines of others as specs, specs as pipelines of diffusers, and repositories of the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.api._common import Source, lowered_spec, with_first_stage
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import runtime_errors

if TYPE_CHECKING:
    from latentc.interchange import Exported, Imported
    from latentc.spec import Spec
    from latentc.weights import Expr
    from latentc.weights.in_memory import Weights


def import_checkpoint(
    source: Path | str,
    folder: Path | str,
    system: str | None = None,
    variant: str | None = None,
    key: str | None = None,
    force: bool = False,
) -> Imported:
    """Write `folder`/spec.yaml, a spec whose default weights are a folder of diffusers or a checkpoint file.

    `system` (a shipped spec) and `variant` choose among those that a file fits, `key` among its state dicts; `force`
    replaces an earlier import. Raises DiagnosticError: E0401 to E0411, E0416, E0417, E0501, E0502.
    """
    from latentc.interchange import import_source
    from latentc.weights.hub import local_pipeline

    return import_source(local_pipeline(source), Path(folder), system, variant, key, force)


def export_diffusers(
    source: Source,
    folder: Path | str,
    weights: Weights | None = None,
    names: str | None = None,
    key: str | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> Exported:
    """Write a spec with its weights, or a bundle, as a folder that diffusers loads.

    A bundle holds all weights but those of the first stage's encoder: for these, name `first_stage=FILE`. Raises
    DiagnosticError: E0401 to E0415, E0418, E0501, E0502, E0601 to E0605, E0703.
    """
    from latentc.checkpoint import network_weights
    from latentc.interchange import export_diffusers as write
    from latentc.interchange.imported import check_free

    check_free(Path(folder), force)  # before anything is read
    if (Path(source) / "manifest.json").is_file():
        spec, tensors, notes = _of_bundle(Path(source), weights, variant, overrides)
    else:
        overrides, weights = with_first_stage(source, variant, overrides, weights)
        spec, lowered = lowered_spec(source, variant, overrides)
        tensors, notes = network_weights(spec, lowered, weights, names, key, lowered.sampled or None), []
    return write(spec, tensors, Path(folder), force, notes)


def _of_bundle(
    bundle: Path, weights: Weights | None, variant: str | None, overrides: Sequence[str]
) -> tuple[Spec, Mapping[str, Mapping[str, Expr]], list[str]]:
    """A bundle's spec, the weights of its networks, and what is not as trained."""
    from latentc.checkpoint import first_stage_weights
    from latentc.components.fields import FIRST_STAGE
    from latentc.measure.subject import open_subject
    from latentc.spec.named import first_stage_file
    from latentc.weights.hub import is_remote

    if variant is not None or overrides:
        raise DiagnosticError.of(
            "E0701", "a bundle cannot be changed after it is compiled", help="leave `--variant` and `--set` out"
        )
    with runtime_errors():
        subject = open_subject(bundle)
    spec, notes = subject.spec, []
    if subject.quantization is not None:
        notes.append("the bundle is quantised: its weights are rounded to 8 or 4 bits")
    networks = [name for name in spec.networks if any(path.startswith(f"{name}.") for path in subject.weights)]
    tensors = {
        name: {path.removeprefix(f"{name}."): e for path, e in subject.weights.items() if path.startswith(f"{name}.")}
        for name in networks
    }
    _, others = given = with_first_stage(bundle / "spec.yaml", None, (), weights)
    if others:
        raise DiagnosticError.of(
            "E0415", "a bundle already contains its weights", help="give only `-w first_stage=FILE`"
        )
    if given[0]:
        from latentc.spec import load_spec

        spec = load_spec(bundle / "spec.yaml", None, given[0])
    file = first_stage_file(spec)
    if file is not None and (is_remote(file) or file.exists()):
        tensors[FIRST_STAGE] = first_stage_weights(spec)
    return spec, tensors, notes


def push(
    source: Path | str,
    repository: str,
    spec: Source | None = None,
    variant: str | None = None,
    overrides: Sequence[str] = (),
    licence: str | None = None,
    report: Path | str | None = None,
    picture: Path | str | None = None,
    private: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, list[str]]:
    """Upload a bundle or a trained project to the Hugging Face Hub; returns its address and the files there.

    `source` is a bundle, a project, or the folder of one of its runs. `spec`, with `variant` and `overrides`: that of a
    project; None for the one that it was emitted from. The model card shows the data, the figures of `report` (a folder
    that `evaluate` wrote) with their extractors, samples, `licence` (an identifier of the Hub, such as apache-2.0) and
    how to run it. Samples are `picture` (a PNG), else the run's newest grid, or are drawn from the bundle. Raises
    DiagnosticError: E0401 to E0411, E0426, E0601 to E0605, E0701, E0706.
    """
    from latentc.diagnostics.faults import needed
    from latentc.interchange import hub
    from latentc.interchange.card import Card, report_of
    from latentc.spec import load_spec
    from latentc_runtime.bundle import open_bundle

    folder = Path(source)
    needed("huggingface_hub", f"pushing to {repository}", "pip install 'latentc[hub]'")  # before any work
    found = None if report is None else report_of(Path(report))
    if picture is not None and not Path(picture).is_file():
        raise DiagnosticError.of("E0401", f"no such file: {picture}", help="name a PNG")
    shown = None if picture is None else Path(picture)
    with tempfile.TemporaryDirectory() as temporary:
        if hub.is_bundle(folder):
            if spec is not None or variant is not None or overrides:
                mend = "leave `--spec`, `--variant` and `--set` out"
                raise DiagnosticError.of("E0701", "a bundle has its own spec", help=mend)
            with runtime_errors():
                files, own = hub.bundle_files(folder), hub.spec_of(folder)
                manifest = open_bundle(folder, verify=False).manifest
            what, about = "A compiled bundle", "Drawn with this bundle, from seed 0 on."
            facts = {
                "programs": ", ".join(f"{p.name}: {p.solver}, {p.steps} steps" for p in manifest.programs),
                "engine": f"{manifest.engine}, {manifest.precision}",
            }
            if shown is None:
                shown = _drawn(folder, Path(temporary) / hub.PICTURE, progress)
        else:
            run = hub.trained(folder)
            spec = spec if spec is not None else hub.spec_of_project(folder)
            if spec is None:
                mend = "add `--spec SPEC`, with the `--variant` and `--set` that it was emitted with"
                raise DiagnosticError.of(
                    "E0701", f"{folder} does not hold the spec that it was emitted from", help=mend
                )
            own = load_spec(spec, variant, overrides)
            files = hub.project_files(run, own, Path(temporary), licence)
            what, about, facts = "Trained weights", "", {}
            if shown is None and run.picture is not None:
                shown, about = run.picture, f"Drawn during training, after {run.picture.stem.lstrip('0') or 0} steps."
        facts["spec"] = own.name
        picture_name = None
        if shown is not None:
            picture_name = hub.PICTURE
            files[hub.PICTURE] = shown
        made = Card(
            what,
            hub.SPEC,
            hub.commands(repository.partition("@")[0].removeprefix("hub:"), hub.is_bundle(folder), own),
            facts,
            found,
            picture_name,
            about if picture is None else "",
            licence,
        )
        files[hub.CARD] = hub.card(own, made)
        return hub.upload(repository, files, private), sorted(files)


def _drawn(bundle: Path, file: Path, progress: Callable[[int, int], None] | None) -> Path | None:
    """A picture with a sample of each of eight classes, or with eight samples; None of what needs other conditions."""
    from latentc.api.sampling import sample
    from latentc_runtime.bundle import open_bundle

    with runtime_errors():
        manifest = open_bundle(bundle, verify=False).manifest
    conditions = manifest.conditions_of(manifest.programs[0])
    if manifest.output.medium != "image" or any(condition.name != "class" for condition in conditions):
        return None
    classes = next((condition.classes for condition in conditions), None)
    if classes is not None:
        number = min(classes, 8)
        chosen = [index * classes // number for index in range(number)]
        sample(bundle, chosen, output=file, labels=True, progress=progress)
    else:
        sample(bundle, count=8, output=file, progress=progress)
    return file


def pull(repository: str, folder: Path | str | None = None) -> tuple[Path, str]:
    """Download a repository of the Hugging Face Hub to `folder`, by default named like it.

    Returns the folder and what it holds: "bundle", whose checksums are verified, "spec" (with its weights) or "files".
    Interrupted downloads go on. `repository` may end in @REVISION. Of `official:NAME`, the file in the user's cache and
    "weights"; then there is no `folder`. Raises DiagnosticError: E0412, E0425, E0427, E0428, E0601 to E0605, E0701,
    E0706.
    """
    from latentc.spec.official import entry, file_of
    from latentc.weights.hub import is_official

    if is_official(repository):
        if folder is not None:
            mend = f"leave `-o` out; `latentc weights SPEC -w {repository} -o FILE` writes a file"
            raise DiagnosticError.of("E0701", "official checkpoints are downloaded to the cache", help=mend)
        return file_of(entry(repository)), "weights"
    from latentc.interchange import hub
    from latentc.weights.hub import place
    from latentc_runtime.bundle import open_bundle

    def check(bundle: Path) -> None:
        with runtime_errors():
            open_bundle(bundle)

    target = Path(place(repository)[0].rpartition("/")[2] if folder is None else folder)
    return target, hub.pull(repository, target, check)
