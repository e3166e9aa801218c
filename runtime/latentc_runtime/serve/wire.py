"""Requests: JSON, a form with files, or a query string, all with the same fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from latentc_runtime.codec import CodecError, decode, parse
from latentc_runtime.conditions import described
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Manifest
from latentc_runtime.request import Request, all_settings, check_request, program_entry
from latentc_runtime.serve.options import HttpError, http_error, refused
from latentc_runtime.serve.uploads import noise_from_bytes, value_from_bytes
from latentc_runtime.sources import Retriever


@dataclass(frozen=True)
class Asked:
    """The fields of a request, which mean what they do for `Pipeline.sample`.

    columns: of a grid of pictures. format: of the answer, such as "png", in place of the header Accept.
    """

    classes: Any = None
    seeds: Any = 0
    count: int | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    guidance: Any = None
    truncation: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    noise: dict[str, Any] = field(default_factory=dict)
    program: str | None = None
    steps: int | None = None
    columns: int | None = None
    format: str | None = None

    def request(self, manifest: Manifest, most: int, indexes: Mapping[str, Retriever] | None = None) -> Request:
        """The checked request, of at most `most` samples; `indexes` find neighbours. Raises HttpError."""
        classes = [self.classes] if isinstance(self.classes, int) else self.classes
        try:
            settings = all_settings(self.settings, guidance=self.guidance, truncation=self.truncation)
            entry = program_entry(manifest, self.program, self.steps)
            request = check_request(
                manifest,
                entry,
                classes,
                self.seeds,
                self.conditions,
                settings,
                self.noise,
                count=self.count,
                most=most,
                indexes=indexes,
            )
        except BundleError as error:
            raise http_error(error) from None
        if len(request) == 0:
            raise refused(400, "E0608", "the request asks for 0 samples", "ask for at least one")
        return request


FIELDS = {f.name for f in fields(Asked)}
_OBJECTS = {"conditions", "settings", "noise"}  # fields that an address cannot hold
NOISE = "noise."  # before the name of an input whose noise is a file of a form


def asked_from_json(body: bytes) -> Asked:
    """The request in a JSON object. HttpError 400 (E0618)."""
    try:
        return decode(Asked, parse(body))
    except CodecError as error:
        raise _unreadable(str(error)) from None


def asked_from_query(pairs: Iterable[tuple[str, str]], manifest: Manifest) -> Asked:
    """The request in a query string: `classes=3,5&seeds=7&guidance=2&mel=[[0.1, …]]`. HttpError 400.

    Fields of `Asked` by name; other names are conditions or settings. Values are JSON, numbers separated by commas, or
    text; a name that comes several times gives several values.
    """
    texts: dict[str, str] = {}
    for name, text in pairs:
        texts[name] = f"{texts[name]},{text}" if name in texts else text
    conditions = {c.name for c in manifest.conditions}
    settings = {s.name for s in manifest.settings}
    asked: dict[str, Any] = {"conditions": {}, "settings": {}}
    for name, text in texts.items():
        value = _value_from_text(text)
        if name in conditions:
            asked["conditions"][name] = value
        elif name in settings:
            asked["settings"][name] = value
        elif name in FIELDS - _OBJECTS:
            # Classes may be names and ranges, which the runtime reads.
            asked[name] = text if name in ("classes", "program", "format") else value
        else:
            known = ", ".join(sorted({*conditions, *settings, *FIELDS} - _OBJECTS))
            raise refused(400, "E0618", f"the address has an unknown field `{name}`", f"known are {known}")
    try:
        return decode(Asked, asked)
    except CodecError as error:
        raise _unreadable(str(error)) from None


def asked_from_form(text: bytes, files: Mapping[str, bytes], manifest: Manifest, most: int) -> Asked:
    """The request in a form: `text`, the JSON of its field `request`, and a file per condition or noise input.

    HttpError 400, 413.
    """
    asked = asked_from_json(text)
    known = {c.name: c for c in manifest.conditions}
    conditions, noise = dict(asked.conditions), dict(asked.noise)
    for name, content in files.items():
        if name.startswith(NOISE):
            noise[name.removeprefix(NOISE)] = noise_from_bytes(content, name)
            continue
        if name not in known:
            mend = "; ".join(map(described, known.values())) or "this model takes no conditions"
            raise refused(400, "E0608", f"no condition `{name}`", mend)
        if name in conditions:
            raise refused(400, "E0608", f"the condition `{name}` is given twice", "send either the file or the value")
        conditions[name] = value_from_bytes(content, known[name], most)
    return replace(asked, conditions=conditions, noise=noise)


def _value_from_text(text: str) -> Any:
    parts = text.split(",") if "[" not in text and "{" not in text else [text]
    values = [_one_from_text(part.strip()) for part in parts]
    return values if len(values) > 1 else values[0]


def _one_from_text(text: str) -> Any:
    try:
        return parse(text.encode())
    except CodecError:
        return float("inf") if text == "inf" else text


def _unreadable(reason: str) -> HttpError:
    example = json.dumps({"classes": [0], "seeds": 7})
    return refused(400, "E0618", f"the request cannot be read: {reason}", f"send a JSON object such as {example}")
