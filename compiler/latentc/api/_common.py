"""Helpers shared by the verbs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from latentc.files.shipped import shipped_specs

if TYPE_CHECKING:
    from latentc.components.contract import Lowered
    from latentc.spec import Spec
    from latentc.weights.in_memory import Weights

Source = str | Path
Backend = Literal["oracle", "torch", "onnx", "openvino"]


def with_first_stage(
    source: Source, variant: str | None, overrides: Sequence[str], weights: Weights | None
) -> tuple[list[str], Weights]:
    """The overrides with the file of `first_stage=FILE` among the weights, and the other weights. DiagnosticError.

    The names of the first stage's own spec and weights become paths that do not depend on where the spec lies.
    """
    from latentc.components.fields import FIRST_STAGE
    from latentc.spec import load_spec
    from latentc.spec.load import first_stage_path
    from latentc.spec.named import first_stage_file

    spec = load_spec(source, variant, overrides)
    stage = spec.data.first_stage
    if isinstance(weights, Mapping):
        given: list[Path | str] = []
    else:
        given = [] if weights is None else [weights] if isinstance(weights, Path | str) else list(weights)
    if stage is None:
        return list(overrides), () if weights is None else weights
    more = []
    if stage.spec not in shipped_specs():
        more.append(f"data.first_stage.spec={json.dumps(str(first_stage_path(spec, stage).resolve()))}")
    own = [str(text) for text in given if str(text).startswith(f"{FIRST_STAGE}=")]
    if own:
        more.append(f"data.first_stage.weights={json.dumps(own[-1].partition('=')[2])}")
        given = [text for text in given if str(text) not in own]
    elif (file := first_stage_file(spec)) is not None and str(file) != stage.weights:
        more.append(f"data.first_stage.weights={json.dumps(str(file.resolve()))}")
    rest: Weights = given[0] if len(given) == 1 else given
    return [*overrides, *more], weights if isinstance(weights, Mapping) else rest


def lowered_spec(
    source: Source, variant: str | None, overrides: Sequence[str], to_emit: bool = False
) -> tuple[Spec, Lowered]:
    """The spec, read and checked, and what it lowers to. DiagnosticError."""
    from latentc.lower import lower
    from latentc.spec import load_spec

    spec = load_spec(source, variant, overrides)
    if to_emit:
        spec = _with_downloads(spec)
    return spec, lower(spec, to_emit=to_emit)


def _with_downloads(spec: Spec) -> Spec:
    """The spec with files of this machine for pretrained weights elsewhere, for a project. DiagnosticError E0425.

    Of official checkpoints, copies under latentc's own names in the user's cache, which a project reads. Raises
    DiagnosticError, too: E0410, E0427 and E0428.
    """
    from latentc.diagnostics import DiagnosticError
    from latentc.weights.files import files_of
    from latentc.weights.hub import is_hub, is_official

    networks = dict(spec.networks)
    for name, network in spec.networks.items():
        path = getattr(network, "pretrained", None)
        if path is not None and is_official(path):
            from latentc.checkpoint import official_in_own_names

            own = str(official_in_own_names(spec, name, path))
            networks[name] = network.model_copy(update={"pretrained": own})
        elif path is not None and is_hub(path):
            files = files_of(path)
            if len(files) != 1:
                place = spec.span("networks", name, "pretrained")
                message = f"{path} holds {len(files)} files, and a project reads one"
                raise DiagnosticError.of("E0425", message, place, help=f"name it: {path}/FILE")
            networks[name] = network.model_copy(update={"pretrained": str(files[0])})
    return spec if networks == spec.networks else spec.model_copy(update={"networks": networks})


def check_data(spec: Spec, lowered: Lowered) -> None:
    """DiagnosticError E0305 if training reads fields that the data cannot hold."""
    from latentc.components.read_fields import problems_of_reading
    from latentc.diagnostics import Diagnostic, DiagnosticError

    faults = [
        Diagnostic("E0305", problem.message, spec.span("data", *problem.path) or spec.span("data"), help=problem.help)
        for problem in problems_of_reading(spec, lowered.updates)
    ]
    if faults:
        raise DiagnosticError(*faults)
