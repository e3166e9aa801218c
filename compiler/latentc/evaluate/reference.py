"""The reference of a comparison: real data, pictures, or statistics as ADM, EDM and pytorch-fid store them.

Symbols: M reference samples, F features, S spatial features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from latentc.components import OneOf, load
from latentc.components.dataset import Data
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.extractors.contract import Extractor, Features
from latentc.evaluate.metrics.contract import Moments, Reference, moments
from latentc.evaluate.sources import InFiles, Real, SampleSource, field_of
from latentc.evaluate.store import Tell, features_of
from latentc.files import shipped
from latentc.files.named import FileArray, new_file, open_arrays
from latentc.samples.sets import ABOUT
from latentc.spec import load_spec
from latentc_runtime.manifest import Output

MOST = 50_000  # default number of real samples
_AnyData = Annotated[Data, OneOf("data")]
HELP = "give a folder of images, an .npz of pictures (`arr_0`) or statistics (`mu`, `sigma`), a spec, or `digits`"


def real_source(
    text: str, output: Output | None, most: int | None, held_out: bool = True
) -> tuple[SampleSource | None, Reference | None]:
    """The samples and the statistics that a text names. DiagnosticError E0401 to E0403, E0408, E0722.

    `text`: a folder of images, an .npz of pictures, statistics or both, a spec (for its data), or a kind of data that
    needs no settings. `output`: what is compared with it. `held_out`: of data with a part that training does not see,
    that part.
    """
    path = Path(text)
    if path.suffix == ".npz":
        return _archive(path, most)
    if path.is_dir():
        return _folder(path, output, most), None
    is_spec = path.is_file() or text in shipped.shipped_specs()
    data = load_spec(text).data if is_spec else _data_of_kind(text)
    return source_of(data, output, text, most, held_out), None


def source_of(data: Data, output: Output | None, name: str, most: int | None, held_out: bool) -> Real:
    """The samples of a spec's data. DiagnosticError E0722."""
    chosen = data.held_out() if held_out else data
    own = "held-out " if held_out and chosen is not data else ""
    return Real(chosen, output, f"{own}{name}", most)


def _data_of_kind(kind: str) -> Data:
    """Data of a kind whose settings all have defaults."""
    if kind not in load("data"):
        raise DiagnosticError.of("E0401", f"no such file, folder or data: {kind}", help=HELP)
    try:
        return data_from_section({"kind": kind})
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise DiagnosticError.of("E0722", f"data of kind `{kind}` need settings: {reason}", help=HELP) from None


def data_from_section(section: Mapping[str, Any]) -> Data:
    """The data that a `data` section describes. Raises ValidationError."""
    found: Data = TypeAdapter[Any](_AnyData).validate_python(dict(section))
    return found


def _folder(path: Path, output: Output | None, most: int | None) -> SampleSource:
    """The samples in a folder: a set of samples, or data of the kind that recognises it, in the form of the output."""
    if (path / "manifest.json").is_file():
        raise DiagnosticError.of("E0722", f"{path} is a bundle, not real data", help=HELP)
    if (path / ABOUT).is_file():
        return InFiles(path, most)
    fields = None if output is None else field_of(output)
    for kind in load("data").values():
        assert issubclass(kind, Data)
        if fields is not None and (data := kind.at(path, fields)) is not None:
            return Real(data, None, str(path), most)
    return InFiles(path, most)


def _archive(path: Path, most: int | None) -> tuple[SampleSource | None, Reference | None]:
    """Pictures (`arr_0`) and statistics (`mu`, `sigma`; `mu_s`, `sigma_s` for sFID) of an .npz."""
    arrays = open_arrays(path)
    pictures = InFiles(path, most) if "arr_0" in arrays else None
    found = _pair(arrays, "mu", "sigma")
    if found is None and pictures is None:
        held = ", ".join(arrays) or "nothing"
        raise DiagnosticError.of("E0722", f"{path} holds {held}: neither pictures nor statistics", help=HELP)
    if found is None:
        return pictures, None
    return pictures, Reference(path.name, found, spatial=_pair(arrays, "mu_s", "sigma_s"))


def _pair(arrays: Mapping[str, FileArray], mean: str, covariance: str) -> Moments | None:
    """The moments of these names; None if they are absent or do not fit together. `in_memory` reads the covariance."""
    if mean not in arrays or covariance not in arrays:
        return None
    shape = arrays[mean].shape
    if len(shape) != 1 or arrays[covariance].shape != 2 * shape:
        return None
    mu = np.asarray(arrays[mean], np.float64)
    return Moments(mu, arrays[covariance]) if np.isfinite(mu).all() else None


def in_memory(reference: Reference, features: Features) -> Reference:
    """The reference with covariances read from their file, spatial ones if they are of as many features.

    DiagnosticError E0722 if the covariance is not finite.
    """
    of, spatial = reference.moments, reference.spatial
    moments = Moments(of.mean, np.asarray(of.covariance, np.float64))
    if not np.isfinite(moments.covariance).all():
        message = f"the covariance of {reference.name} holds values that are not finite"
        raise DiagnosticError.of("E0722", message, help=HELP)
    if spatial is not None:
        fits = features.spatial is not None and features.spatial.shape[1:] == spatial.mean.shape
        spatial = Moments(spatial.mean, np.asarray(spatial.covariance, np.float64)) if fits else None
    return replace(reference, moments=moments, spatial=spatial)


def reference_of(source: SampleSource, extractor: Extractor, tell: Tell) -> Reference:
    """The reference that a source's samples are, in the space of an extractor. DiagnosticError E0720, E0722."""
    found, labels = features_of(source, {extractor.name: extractor}, tell)[extractor.name]
    if len(found) < 2:
        raise DiagnosticError.of("E0722", f"{source.name}: a reference needs at least two samples", help=HELP)
    spatial = None if found.spatial is None else moments(found.spatial)
    return Reference(source.name, moments(found.features), found.features, labels, spatial, len(found))


def write_reference(path: Path, reference: Reference) -> None:
    """Statistics as pytorch-fid, ADM and EDM read them: `mu`, `sigma`, and `mu_s`, `sigma_s` if known.

    DiagnosticError E0412.
    """
    arrays = {"mu": reference.moments.mean, "sigma": reference.moments.covariance}
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mean, "sigma_s": reference.spatial.covariance}
    with new_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
