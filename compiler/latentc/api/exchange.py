"""Checkpoints and pipelines of others as specs, and specs as pipelines of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    return import_source(Path(source), Path(folder), system, variant, key, force)


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
    if file is not None and file.exists():
        tensors[FIRST_STAGE] = first_stage_weights(spec)
    return spec, tensors, notes
