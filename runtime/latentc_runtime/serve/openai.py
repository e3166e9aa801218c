"""Pictures for clients of OpenAI's interface: `POST /v1/images/generations`.

The prompt is a class, by its name or number, or the text of a model that takes text. `seed`, `steps` and `guidance` are
not part of that interface; without a seed, a request draws one, and the answer has that of each picture.
Source: https://platform.openai.com/docs/api-reference/images/create
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from latentc_runtime.class_names import class_from_name, shown
from latentc_runtime.codec import CodecError, decode, parse
from latentc_runtime.conditions import RequestError, described
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Output, ProgramEntry
from latentc_runtime.request import program_entry
from latentc_runtime.serve import answers
from latentc_runtime.serve.guards import OPENAI
from latentc_runtime.serve.metrics import Metrics
from latentc_runtime.serve.models import Model
from latentc_runtime.serve.openapi import Schema
from latentc_runtime.serve.options import CLOSED, HttpError, Options
from latentc_runtime.serve.sampling import Handler, Visit, counted, in_time
from latentc_runtime.serve.wire import Asked
from latentc_runtime.sources import Condition

IMAGES = f"{OPENAI}generations"

_NUMBER = re.compile(r"\s*\d{1,9}\s*", re.ASCII)
_FIXED = {  # fields that have one effect here, and the values that ask for it
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "quality": ("auto", "standard"),
    "background": ("auto",),
    "moderation": ("auto",),
    "stream": (False,),
}


@dataclass(frozen=True)
class _Asked:
    """The fields of a request; `user` is not used."""

    prompt: str
    model: str | None = None
    n: int | None = None
    size: str | None = None
    response_format: str | None = None
    output_format: str | None = None
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None
    stream: bool | None = None
    user: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None


def images_handler(models: Mapping[str, Model], options: Options, metrics: Metrics) -> Handler:
    """The handler of requests for pictures of any of the models."""

    async def images(http: HttpRequest) -> Response:
        body = await in_time(http.body())
        asked = _read(body)
        model = _model(models, asked.model)
        return await counted(http, model, metrics, _images(http, asked, model, options, metrics))

    return images


async def _images(http: HttpRequest, asked: _Asked, model: Model, options: Options, metrics: Metrics) -> Response:
    model.scheduler.check_room()
    seed = secrets.randbits(53) if asked.seed is None else asked.seed
    wanted = _wanted(asked, model, seed)
    request = await run_in_threadpool(wanted.request, model.manifest, options.max_samples, model.pipeline.indexes)
    output = request.outputs[0].output
    http.scope["state"]["log"].update(model=model.name, samples=len(request), type="image/png")
    outputs = await Visit(http, model, request, metrics, previews=False).whole()
    if outputs is None:
        return Response(status_code=CLOSED)
    samples = outputs[request.entry.outputs[0].name]
    pictures = [(await run_in_threadpool(answers.parts, sample, output))["image/png"] for sample in samples]
    seeds = request.given.seeds
    data = [{"b64_json": text, "seed": int(one)} for text, one in zip(pictures, seeds, strict=True)]
    return JSONResponse({"created": int(time.time()), "data": data})


def _read(body: bytes) -> _Asked:
    """The fields of a request, each of a value that is supported. HttpError 400 (E0618)."""
    try:
        asked = decode(_Asked, parse(body))
    except CodecError as error:
        known = asdict(_Asked("")).keys()
        name = str(error).partition(":")[0]
        example = 'send a JSON object such as {"prompt": "0", "n": 1}'
        raise _refused(name if name in known else None, f"the request cannot be read: {error}", example) from None
    for name, values in _FIXED.items():
        given = getattr(asked, name)
        if given is not None and given not in values:
            mend = f"leave it out, or give {' or '.join(map(repr, values))}"
            raise _refused(name, f"`{name}` cannot be {str(given)[:60]!r} here", mend)
    if asked.n is not None and asked.n < 1:
        raise _refused("n", f"`n` is {asked.n}", "ask for at least one picture")
    return asked


def _model(models: Mapping[str, Model], name: str | None) -> Model:
    if name is None and len(models) == 1:
        return next(iter(models.values()))
    if name is not None and name in models:
        return models[name]
    what = "the request names no model" if name is None else f"there is no model `{name[:60]}`"
    error = BundleError("E0617", what, f"models: {', '.join(models)}")
    raise HttpError(400 if name is None else 404, error, field="model")


def _wanted(asked: _Asked, model: Model, seed: int) -> Asked:
    """The request for the model. HttpError 400 for a size, prompt or model that does not fit."""
    try:
        entry = program_entry(model.manifest, None, asked.steps)
    except BundleError as error:
        raise HttpError(400, error, field="steps") from None
    _check_size(asked, model, entry.outputs[0].output)
    count = 1 if asked.n is None else asked.n
    return Asked(
        **_prompt(asked.prompt, model, entry), seeds=seed, count=count, guidance=asked.guidance, steps=asked.steps
    )


def _check_size(asked: _Asked, model: Model, output: Output) -> None:
    if (
        output.medium != "image"
        or (side := answers.side(output)) is None
        or "image/png" not in answers.types_of(output)
    ):
        mend = f"use /v1/models/{model.name}/sample"
        raise _refused("model", f"the model `{model.name}` makes no pictures but {output.medium}", mend, "E0612")
    height, width = side
    if asked.size not in (None, "auto", f"{width}x{height}"):
        mend = f"leave `size` out, or give {width}x{height}"
        raise _refused("size", f"the model `{model.name}` makes no pictures of {asked.size[:60]}", mend, "E0608")


def _prompt(prompt: str, model: Model, entry: ProgramEntry) -> dict[str, Any]:
    """The condition that a prompt gives: the class, otherwise the text. HttpError 400 (E0608)."""
    conditions = model.manifest.conditions_of(entry)
    labels = [c for c in conditions if c.form == "label"]
    texts = [c for c in conditions if c.form == "tokens" and c.medium == "text"]
    if len(labels) == 1 and not (texts and not labels[0].required):
        (label,) = labels
        return {"conditions": {label.name: _class(prompt, label)}}
    if len(texts) == 1:
        return {"conditions": {texts[0].name: prompt}}
    if prompt.strip():
        takes = "; ".join(map(described, conditions)) or "nothing: leave the prompt empty"
        mend = f"it takes {takes}" if not conditions else f"use /v1/models/{model.name}/sample; it takes {takes}"
        raise _refused("prompt", f"the model `{model.name}` takes no prompt", mend, "E0608")
    return {}


def _class(prompt: str, label: Condition) -> int:
    """The class that a prompt names. HttpError 400 (E0608)."""
    last = (label.classes or 1) - 1
    if _NUMBER.fullmatch(prompt) and prompt.strip() not in label.names:
        if int(prompt) <= last:
            return int(prompt)
    elif label.names:
        try:
            return class_from_name(prompt, label.names)
        except RequestError as error:
            raise HttpError(400, BundleError("E0608", error.message, error.help), field="prompt") from None
    mend = f"give a number from 0 to {last}{', or a name' if label.names else ''}"
    raise _refused("prompt", f"`{shown(prompt)}` is no class of the model", mend, "E0608")


def _refused(field: str | None, message: str, help: str, code: str = "E0618") -> HttpError:
    return HttpError(400, BundleError(code, message, help), field=field)


def images_operation(models: Mapping[str, Model], options: Options) -> Schema:
    """The part of the OpenAPI document for these requests."""
    fault: Schema = {name: {"type": "string"} for name in ("message", "type", "param", "code")}
    rows: Schema = {
        "prompt": {"type": "string", "description": "a class by its name or number, or a text"},
        "model": {"type": "string", "enum": list(models)},
        "n": {"type": "integer", "minimum": 1, "maximum": options.max_samples, "default": 1},
        "size": {"type": "string", "description": "WIDTHxHEIGHT of the model's pictures, or auto"},
        "response_format": {"type": "string", "enum": ["b64_json"]},
        "seed": {"type": "integer", "minimum": 0, "description": "that of the first picture; drawn if left out"},
        "steps": {"type": "integer", "minimum": 1},
        "guidance": {"type": "number"},
    }
    example = {"prompt": "0", "model": next(iter(models), ""), "n": 1, "response_format": "b64_json"}
    body = {"type": "object", "properties": rows, "required": ["prompt"], "example": example}
    one = {"type": "object", "properties": {"b64_json": {"type": "string"}, "seed": {"type": "integer"}}}
    found = {"created": {"type": "integer"}, "data": {"type": "array", "items": one}}
    return {
        "requestBody": {"content": {answers.JSON: {"schema": body}}, "required": True},
        "responses": {
            "200": {"description": "The pictures", "content": _json(found)},
            "400": {"description": "The request does not fit the model", "content": _json({"error": _object(fault)})},
        },
    }


def _json(properties: Schema) -> Schema:
    return {answers.JSON: {"schema": _object(properties)}}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


__all__ = ["IMAGES", "images_handler", "images_operation"]
