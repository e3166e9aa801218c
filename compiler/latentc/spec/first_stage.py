"""The spec of a first stage, at the image size that the data of another spec asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latentc.components.backbone import Backbone
from latentc.diagnostics import DiagnosticError
from latentc.spec.resolve import named_spec, resolve_file

if TYPE_CHECKING:
    from latentc.components.first_stage import FirstStage
    from latentc.spec.schema import Spec


def first_stage_path(spec: Spec, stage: FirstStage) -> Path:
    """The file of a first stage's spec; relative to the file that names it. DiagnosticError E0210."""
    span = spec.span("data", "first_stage", "spec")
    return named_spec(stage.spec, Path(span.file).parent if span else Path(), span)


def load_first_stage(spec: Spec) -> Spec | None:
    """The autoencoder that encodes the data of `spec`, as a spec of its own; None if there is none.

    Its images have the size that the latents or tokens of `spec` ask for, if these are a map. Raises DiagnosticError:
    E0210 if it is not found, E0302 if it is not an autoencoder, and its own mistakes.
    """
    from latentc.spec.load import load_spec, spec_from_resolved

    stage = spec.data.first_stage
    if stage is None:
        return None
    path = first_stage_path(spec, stage)
    found = load_spec(path, stage.variant)
    network = found.networks.get("main")
    if not isinstance(network, Backbone) or "autoencode" not in network.provides(found) or found.data.shape is None:
        message = f"`{stage.spec}` is not the spec of an autoencoder"
        mend = "shipped ones: sd_vae, vq_f16"
        raise DiagnosticError.of("E0302", message, spec.span("data", "first_stage", "spec"), help=mend)
    grid = spec.data.shape[1:] if spec.data.shape is not None else spec.data.tokens.grid if spec.data.tokens else ()
    factor = network.codes(found).factor
    if factor is None:
        return found
    shape = [found.data.shape[0], *(size * factor for size in grid)]
    if len(shape) == 3 and shape != list(found.data.shape):
        key = "data.fields.x.shape" if "x" in found.data.fields_ else "data.shape"  # at the place in its own spec
        overrides = (f"{key}={shape}",)
        try:
            found = spec_from_resolved(resolve_file(str(path), stage.variant, overrides, "size of the first stage"))
            found._origin = (str(path), stage.variant, overrides)
        except DiagnosticError as error:
            message = f"`{stage.spec}` cannot take images of shape {shape}, from which codes of this size are made"
            why = error.diagnostics[0].message
            place = ("data", "shape") if spec.data.shape is not None else ("data", "tokens")
            raise DiagnosticError.of("E0302", message, spec.span(*place), notes=(why,)) from None
    return found
