"""Requests of each model as OpenAPI: a schema from its manifest, and an example that works."""

from __future__ import annotations

import math
from typing import Any

from latentc_runtime.chunks import Chunk
from latentc_runtime.conditions import described
from latentc_runtime.serve.answers import EVENTS, JSON, types_of
from latentc_runtime.serve.models import Model
from latentc_runtime.serve.options import Options
from latentc_runtime.sources import Condition, RandomSource, Setting

Schema = dict[str, Any]

ERROR: Schema = {
    "type": "object",
    "description": "What went wrong; `latentc explain CODE` says more.",
    "properties": {name: {"type": "string"} for name in ("code", "message", "help", "request_id")},
}


def operation(model: Model, options: Options, method: str) -> Schema:
    """The part of the OpenAPI document that FastAPI cannot infer for the route that samples from a model."""
    body = request_schema(model, options)
    example = request_example(model)
    types = list(dict.fromkeys(kind for entry in model.manifest.programs for kind in types_of(entry.shown)))
    found: Schema = {"responses": {"200": _answer(types), **_errors()}}
    if method == "POST":
        files = {c.name: {"type": "string", "format": "binary"} for c in model.manifest.conditions if c.form != "label"}
        form = {"type": "object", "properties": {"request": body, **files}}
        content = {JSON: {"schema": body, "examples": {model.name: {"value": example}}}}
        found["requestBody"] = {"content": {**content, **({"multipart/form-data": {"schema": form}} if files else {})}}
    else:
        rows = body["properties"]
        plain = {name: schema for name, schema in rows.items() if schema.get("type") != "object"}
        found["parameters"] = [
            {"name": name, "in": "query", "explode": False, "schema": schema, **_example(example, name)}
            for name, schema in plain.items()
        ]
    return found


def _example(example: Schema, name: str) -> Schema:
    return {"example": example[name]} if name in example else {}


def request_schema(model: Model, options: Options) -> Schema:
    """The JSON Schema of a model's requests."""
    manifest = model.manifest
    seed: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1}
    seeds = "one per sample, or one number: sample i then has seed + i"
    steps = sorted({entry.steps for entry in manifest.programs})
    rows: Schema = {
        "seeds": {"oneOf": [seed, {"type": "array", "items": seed}], "default": 0, "description": seeds},
        "count": {"type": "integer", "minimum": 1, "maximum": options.max_samples},
        "steps": {"type": "integer", "enum": steps, "default": manifest.programs[0].steps},
        "program": {"type": "string", "enum": list(dict.fromkeys(entry.name for entry in manifest.programs))},
        "format": {"type": "string", "description": "such as png, npz, json; in place of the header Accept"},
        "columns": {"type": "integer", "minimum": 1, "description": "columns of a grid of pictures"},
    }
    drawn = {i.name for entry in manifest.programs for i in entry.inputs if isinstance(i.source, RandomSource)}
    if drawn:
        about = "arrays in place of the noise from the seeds: [B, …], or [N, B, …] if it is drawn in every step"
        arrays: Schema = {name: {"type": "array"} for name in sorted(drawn)}
        rows["noise"] = {"type": "object", "properties": arrays, "additionalProperties": False, "description": about}
    labels = [c for c in manifest.conditions if c.form == "label"]
    if len(labels) == 1:
        rows["classes"] = {"type": "array", "items": _condition(labels[0]), "description": described(labels[0])}
    if manifest.conditions:
        conditions = {c.name: {**_condition(c), "description": manifest.takes(c)} for c in manifest.conditions}
        for chunk in (entry.chunk for entry in manifest.programs if entry.chunk is not None):
            conditions |= {name: _rows(conditions[name], chunk, name) for name in chunk.conditions}
        rows["conditions"] = {"type": "object", "properties": conditions, "additionalProperties": False}
    settings = {s.name: _setting(s) for s in manifest.settings}
    if settings:
        rows["settings"] = {"type": "object", "properties": settings, "additionalProperties": False}
        rows |= {name: settings[name] for name in ("guidance", "truncation") if name in settings}
    return {"type": "object", "properties": rows, "additionalProperties": False}


def request_example(model: Model) -> Schema:
    """A small request that the model can serve."""
    manifest = model.manifest
    entry = manifest.programs[0]
    conditions = manifest.conditions_of(entry)
    labels = [c for c in conditions if c.form == "label"]
    example: Schema = {"seeds": 7}
    if len(labels) == 1 and labels[0].required:
        example["classes"] = [0, (labels[0].classes or 1) - 1]
    example["count"] = len(example.get("classes", [0]))
    settings = {s.name: s.default for s in manifest.settings_of(entry) if s.default is not None}
    if "guidance" in settings:
        example["guidance"] = settings["guidance"]
    given = {c.name: _zeros(c) for c in conditions if c.required and not (c in labels and len(labels) == 1)}
    if given:
        example["conditions"] = given
    return example


def _zeros(condition: Condition) -> Any:
    value: Any = 0
    if math.prod(condition.shape) > 4096:
        return "send an array, or a file in multipart/form-data"
    for size in reversed(condition.shape):
        value = [value] * size
    return value


def _condition(condition: Condition) -> Schema:
    if condition.form == "label":
        number: Schema = {"type": "integer", "minimum": 0, "maximum": (condition.classes or 1) - 1}
        return {"anyOf": [number, {"type": "string", "description": "its name"}]} if condition.names else number
    if condition.form == "tokens":
        schema: Schema = {"type": "integer", "minimum": 0, "maximum": (condition.vocabulary or 1) - 1}
    else:
        schema = {"type": "number"}
    for size in reversed(condition.shape):
        schema = {"type": "array", "items": schema, "maxItems": size}
    return schema


def _rows(schema: Schema, chunk: Chunk, name: str) -> Schema:
    """The schema of a condition of any number of rows, or of the sides of a grid."""
    rows = {"type": "array", "items": schema["items"]} if "items" in schema else schema
    if chunk.grid is None or name != chunk.conditions[0]:
        return {**rows, "description": schema["description"]}
    side: Schema = {"type": "integer", "minimum": 1}
    sides = {"type": "array", "items": side, "minItems": 1, "maxItems": len(chunk.grid.axes)}
    return {"anyOf": [rows, side, sides], "description": schema["description"]}


def _setting(setting: Setting) -> Schema:
    low, high = ("minimum", "maximum") if setting.closed else ("exclusiveMinimum", "exclusiveMaximum")
    bounds = {low: setting.low, high: setting.high, "default": setting.default}
    return {"type": "number", **{name: value for name, value in bounds.items() if value is not None}}


def _answer(types: list[str]) -> Schema:
    content: Schema = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in types}
    content[JSON] = {"schema": {"type": "object"}}
    content[EVENTS] = {"schema": {"type": "string"}}
    return {"description": "The samples: one file for all, JSON, or events", "content": content}


def _errors() -> Schema:
    said = {
        "400": "The request does not fit the model",
        "401": "The API key is missing or wrong",
        "406": "Samples cannot be sent in an accepted type",
        "413": "The request's body is too large",
        "429": "The queue is full; Retry-After says when to try again",
        "503": "The server is starting or shutting down",
    }
    return {status: {"description": text, "content": {JSON: {"schema": ERROR}}} for status, text in said.items()}
