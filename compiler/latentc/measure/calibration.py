"""What calibration saw, as data and as the file that is kept of it.

Symbols: B batch, C channels, E evaluations seen, T tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.files import read_arrays, write_arrays
from latentc.measure.execute import Array, Feed
from latentc.measure.observe import Observed
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Expr, blocks

FORMAT = 1


@dataclass(frozen=True)
class Calibration:
    """What calibration saw.

    `about`: of which spec, weights, seed and steps it is. `inputs`: each input of layers by the path its measured
    tensors stand under (`main.blocks.0.attn.qkv`). `feeds`: by network the evaluations seen, inputs by name; `points`
    says where each is (`t=981`). `samples`: what the trajectories end in, f32[B, C, H, W] or i64[B, T].
    """

    about: Mapping[str, Any]
    inputs: Mapping[str, Observed]
    feeds: Mapping[str, tuple[Feed, ...]]
    points: Mapping[str, tuple[str, ...]]
    samples: Array


def weights_hash(weights: Mapping[str, Expr]) -> str:
    """The sha256 of all tensors with their names, dtypes and shapes, in hex."""
    digest = hashlib.sha256()
    for path in sorted(weights):
        expr = weights[path]
        digest.update(f"{path} {expr.dtype} {list(expr.shape)}\n".encode())
        for block in blocks(expr):
            digest.update(block.view(np.uint8).data)
    return digest.hexdigest()


def identity(spec: Spec, asked: Quantize) -> dict[str, Any]:
    """What a calibration depends on of a spec: all of the model and its sampler, and what was asked to be seen."""
    data = spec.model_dump(mode="json", by_alias=True, exclude={"train", "target", "optimize", "weights", "name"})
    seen = asked.calibration.model_dump(exclude={"range"})
    text = json.dumps(data, sort_keys=True)
    return {"spec": hashlib.sha256(text.encode()).hexdigest(), "smooth": asked.smooth, **seen}


def write_calibration(path: Path | str, calibration: Calibration) -> None:
    """Write a calibration as an .npz file that says what it belongs to. DiagnosticError E0412."""
    arrays: dict[str, Array] = {"samples": calibration.samples}
    for name, seen in calibration.inputs.items():
        arrays |= {f"inputs/{name}/{field}": np.asarray(getattr(seen, field)) for field in Observed.__annotations__}
    for name, feeds in calibration.feeds.items():
        arrays |= {f"feeds/{name}/{i}/{key}": array for i, feed in enumerate(feeds) for key, array in feed.items()}
    about = {**calibration.about, "points": calibration.points, "sha256": _content_hash(arrays)}
    write_arrays(path, {"about": np.frombuffer(json.dumps(about, sort_keys=True).encode(), np.uint8), **arrays})


def read_calibration(path: Path | str) -> Calibration:
    """Read a calibration. DiagnosticError: E0401 to E0403, E0408 where it is damaged."""
    arrays = read_arrays(path)
    try:
        about = json.loads(arrays.pop("about").tobytes())
        points = {name: tuple(found) for name, found in about.pop("points").items()}
        if about["format"] != FORMAT:
            raise _damaged(path, f"it has format {about['format']}, this latentc reads {FORMAT}")
        if about.pop("sha256") != _content_hash(arrays):
            raise _damaged(path, "its arrays do not have the hash that it says")
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
        raise _damaged(path, f"it lacks what a calibration has ({type(error).__name__}: {error})") from None


def check_fits(calibration: Calibration, path: Path | str, spec: Spec, asked: Quantize, weights: str) -> None:
    """DiagnosticError E0803 where a calibration is of another spec, other weights or other settings.

    `weights`: their `weights_hash`.
    """
    about, wanted = calibration.about, identity(spec, asked)
    problems = [f"it is of another model or sampler (`{about.get('name')}`)"] if about["spec"] != wanted["spec"] else []
    problems += ["it is of other weights"] if about["weights"] != weights else []
    problems += [
        f"it was made with `{key}: {about.get(key)}`; the spec says {value}"
        for key, value in wanted.items()
        if key != "spec" and about.get(key) != value
    ]
    if problems:
        mend = "make one with `latentc calibrate SPEC --weights FILE -o calibration.npz`, or leave `--calibration` out"
        raise DiagnosticError(*(Diagnostic("E0803", f"{path} does not fit: {p}", help=mend) for p in problems))


def _content_hash(arrays: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {list(arrays[name].shape)}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(path: Path | str, why: str) -> DiagnosticError:
    return DiagnosticError(
        Diagnostic("E0408", f"{path} is no sound calibration: {why}", help="make it again with `latentc calibrate`")
    )


__all__ = ["FORMAT", "Calibration", "check_fits", "identity", "read_calibration", "weights_hash", "write_calibration"]
