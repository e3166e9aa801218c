"""Answers: the samples in the format that it accepts, or their parts for a page that shows them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from latentc_runtime.backends import Array
from latentc_runtime.class_names import title
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Output
from latentc_runtime.media import FORMATS, encoded
from latentc_runtime.media.pixels import arranged, require_finite
from latentc_runtime.media.text import lines
from latentc_runtime.request import Request
from latentc_runtime.serve.options import http_error, refused
from latentc_runtime.sources import Condition

JSON, EVENTS, NPZ = "application/json", "text/event-stream", "application/x-npz"
SUFFIXES = {
    "image/png": ".png",
    "image/gif": ".gif",
    "audio/wav": ".wav",
    "text/plain": ".txt",
    "application/jsonl": ".jsonl",
    NPZ: ".npz",
}
TYPES = {suffix: kind for kind, suffix in SUFFIXES.items()}
_SHORT = {"json": JSON, "events": EVENTS, **{suffix[1:]: kind for suffix, kind in TYPES.items()}}
_ALIASES = {
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "application/zip": NPZ,
    "application/octet-stream": NPZ,
}


def types_of(output: Output) -> list[str]:
    """The media types that samples of a medium come in, its usual one first."""
    return [*(TYPES[suffix] for suffix in FORMATS[output.medium]), JSON, EVENTS]


def chosen_type(accept: str, output: Output) -> str:
    """The type that an Accept header, or a short name such as "png", prefers of those in `types_of`. HttpError 406.

    Source: RFC 9110, section 12.5.1.
    """
    offered = types_of(output)
    accept = _SHORT.get(accept, accept)
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(accept.split(",") if accept.strip() else ["*/*"]):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        text = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            quality = float(text)
        except ValueError:
            continue
        wanted.append((-quality, place, _ALIASES.get(kind, kind)))
    for negated, _, kind in sorted(wanted):
        matches = [o for o in offered if kind in ("*/*", o) or kind == f"{o.split('/')[0]}/*"]
        if matches and negated < 0:
            return matches[0]
    raise refused(
        406, "E0612", f"{output.medium} samples cannot be sent as {accept[:80]}", f"accept one of {', '.join(offered)}"
    )


def whole(samples: Array, output: Output, kind: str, columns: int) -> bytes:
    """All samples as one file of the type `kind`: several pictures as a grid. HttpError 422 (E0612)."""
    try:
        return next(iter(encoded(samples, output, f"samples{SUFFIXES[kind]}", columns).values()))
    except BundleError as error:
        raise http_error(error) from None


def parts(sample: Array, output: Output) -> dict[str, str]:
    """One sample [...] in every format that a page can show: {type: text, or base64 of the bytes}. HttpError 422."""
    kinds = [TYPES[suffix] for suffix in FORMATS[output.medium] if suffix != ".npz"]
    if output.medium == "text":
        return {"text/plain": lines(sample[None], asdict(output))[0]}
    return {kind: base64.b64encode(whole(sample[None], output, kind, 1)).decode() for kind in kinds}


def preview(sample: Array, output: Output) -> dict[str, str]:
    """A picture of an unfinished sample, {} if there is none. Noise of any scale gets the contrast of the range."""
    if output.medium not in ("image", "video") or ".png" not in FORMATS[output.medium]:
        return {}
    if output.range is not None:
        low, high = output.range
        middle, half = (high + low) / 2, (high - low) / 2
        spread = float(np.std(sample, dtype=np.float64)) / half
        if not np.isfinite(spread):
            return {}
        sample = ((sample - middle) / max(1.0, spread) + middle).astype(sample.dtype)
    try:
        return {"image/png": base64.b64encode(whole(sample[None], output, "image/png", 1)).decode()}
    except Exception:  # tokens that are not drawn yet
        return {}


def rows(
    request: Request, conditions: Sequence[Condition], first: int, outputs: dict[str, Array]
) -> list[dict[str, Any]]:
    """The samples from row `first` on as JSON: the inputs and the content of each."""
    main, *further = request.outputs
    found = []
    for i, sample in enumerate(outputs[main.name]):
        content = parts(sample, main.output)
        # Numbers for what cannot be shown as an image.
        plain = further if content else [main, *further]
        item = {"index": first + i, **origin(request, conditions, first + i), "content": content}
        if plain:
            item["outputs"] = {o.name: _numbers(outputs[o.name][i]) for o in plain}
        found.append(item)
    return found


def _numbers(sample: Array) -> Any:
    try:
        require_finite(sample[None])
    except ValueError as error:
        raise http_error(BundleError("E0612", str(error))) from None
    return sample.tolist()


def origin(request: Request, conditions: Sequence[Condition], row: int) -> dict[str, Any]:
    """The seed, labels (and their names, if known) and finite settings of one sample."""
    given = request.given
    known = {c.name: c for c in conditions if c.form == "label" and c.name in given.conditions}
    rows = {name: given.conditions[name][row] for name in known}
    labels = {name: int(np.argmax(label)) if label.ndim else int(label) for name, label in rows.items()}
    named = {name: title(known[name].names, label) for name, label in labels.items() if known[name].names}
    settings = {n: float(v[row]) for n, v in given.settings.items() if np.isfinite(v[row])}
    return {
        "seed": int(given.seeds[row]),
        "labels": labels,
        **({"names": named} if named else {}),
        "settings": settings,
    }


def side(output: Output) -> tuple[int, int] | None:
    """Height and width of a picture, None if samples have none."""
    if output.medium not in ("image", "video"):
        return None
    axes = ("frame", "height", "width", "channel")
    # A view of one number: samples may be larger than the memory.
    shape = arranged(np.broadcast_to(np.uint8(0), (1, *output.shape)), asdict(output), axes).shape
    return shape[2], shape[3]
