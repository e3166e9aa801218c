"""A calibration as data, and as the .npz file that `latentc calibrate` writes and a bundle keeps."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.files.named import open_arrays, write_arrays
from latentc.measure.execute import Array, Feed
from latentc.quantize.model import Model
from latentc.quantize.observe import Observed
from latentc.weights import Expr, blocks

FORMAT = 3


@dataclass(frozen=True)
class Calibration:
    """Layer inputs measured along trajectories, and the trajectories.

    `about`: the spec, weights, seed and settings it was made with. `inputs`: each layer input by the path of its
    measured tensors (`main.blocks.0.attn.qkv`). `feeds`: inputs by name of the recorded calls, by method
    (`main.forward`), and `points` where each call is (`t=981`). `samples`: the first output of the program.
    """

    about: Mapping[str, Any]
    inputs: Mapping[str, Observed]
    feeds: Mapping[str, tuple[Feed, ...]]
    points: Mapping[str, tuple[str, ...]]
    samples: Array


def weights_hash(weights: Mapping[str, Expr]) -> str:
    """The sha256 in hex of all tensors, their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for path in sorted(weights):
        expr = weights[path]
        digest.update(f"{path} {expr.dtype} {list(expr.shape)}\n".encode())
        for block in blocks(expr):
            digest.update(block.view(np.uint8).data)
    return digest.hexdigest()


def identity(model: Model) -> dict[str, Any]:
    """The inputs of a calibration besides the weights: the model and its sampler, and the calibration settings."""
    settings = model.settings
    unrelated = {"train", "target", "optimize", "weights", "name"}
    text = json.dumps(model.spec.model_dump(mode="json", by_alias=True, exclude=unrelated), sort_keys=True)
    seen = settings.calibration.model_dump(exclude={"range"})
    return {"spec": hashlib.sha256(text.encode()).hexdigest(), "smooth": settings.smooth, **seen}


def write_calibration(path: Path | str, calibration: Calibration) -> None:
    """Write a calibration as an .npz file. DiagnosticError E0412."""
    arrays: dict[str, Array] = {"samples": calibration.samples}
    for name, seen in calibration.inputs.items():
        arrays |= {f"inputs/{name}/{field}": np.asarray(getattr(seen, field)) for field in Observed.__annotations__}
    for name, feeds in calibration.feeds.items():
        arrays |= {f"feeds/{name}/{i}/{key}": array for i, feed in enumerate(feeds) for key, array in feed.items()}
    about = json.dumps({**calibration.about, "points": calibration.points}, sort_keys=True)
    write_arrays(path, {"about": np.frombuffer(about.encode(), np.uint8), **arrays})


def read_calibration(path: Path | str) -> Calibration:
    """Read a calibration. DiagnosticError: E0401 to E0403, E0408 if it is damaged."""
    found = open_arrays(path)
    if sum(array.nbytes for array in found.values()) > Path(path).stat().st_size:  # they are written uncompressed
        raise _invalid(path, "it is compressed")
    arrays = {name: np.asarray(array) for name, array in found.items()}
    with zipfile.ZipFile(path) as archive:  # mapped arrays are read without their checksums
        if damaged := archive.testzip():
            raise _invalid(path, f"the checksum of {damaged} is wrong")
    try:
        about = json.loads(arrays.pop("about").tobytes())
        points = {name: tuple(found) for name, found in about.pop("points").items()}
        if about["format"] != FORMAT:
            raise _invalid(path, f"it has format {about['format']}, but this latentc reads {FORMAT}")
        inputs: dict[str, dict[str, Any]] = {}
        feeds: dict[str, dict[int, dict[str, Array]]] = {name: {} for name in points}
        for key, array in arrays.items():
            kind, *rest = key.split("/")
            if kind == "inputs":
                inputs.setdefault(rest[0], {})[rest[1]] = array.item() if array.ndim == 0 else array
            elif kind == "feeds":
                feeds[rest[0]].setdefault(int(rest[1]), {})[rest[2]] = array
        return Calibration(
            about,
            {name: Observed(**fields) for name, fields in inputs.items()},
            {name: tuple(found[i] for i in sorted(found)) for name, found in feeds.items()},
            points,
            arrays["samples"],
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise _invalid(path, f"arrays of a calibration are missing ({type(error).__name__}: {error})") from None


def check_fits(calibration: Calibration, path: Path | str, model: Model) -> None:
    """DiagnosticError E0803 if a calibration belongs to another spec, other weights or other settings."""
    about, wanted = calibration.about, identity(model)
    problems = []
    if about["spec"] != wanted.pop("spec"):
        problems.append(f"it was made from another model or sampler (`{about.get('name')}`)")
    if about["weights"] != weights_hash(model.weights):
        problems.append("it was made from other weights")
    for key, value in wanted.items():
        if about.get(key) != value:
            problems.append(f"it was made with `{key}: {about.get(key)}`, but the spec says {value}")
    if problems:
        mend = "make one with `latentc calibrate SPEC --weights FILE -o calibration.npz`, or leave `--calibration` out"
        raise DiagnosticError(*(Diagnostic("E0803", f"{path} does not fit: {p}", help=mend) for p in problems))


def _invalid(path: Path | str, why: str) -> DiagnosticError:
    mend = "make it again with `latentc calibrate`"
    return DiagnosticError(Diagnostic("E0408", f"{path} is not a valid calibration: {why}", help=mend))
