"""The handler of sampling requests: reads one, submits its job, and answers whole or as a stream of events.

Events are server-sent events: `accepted`, `progress`, `preview` (unfinished pictures, of form `host`), `sample`, and at
last `done` or `error`. A client that leaves ends its job.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
from fastapi import Request as HttpRequest
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from latentc_runtime.backends import Array
from latentc_runtime.request import Request
from latentc_runtime.serve import answers
from latentc_runtime.serve.metrics import Metrics
from latentc_runtime.serve.models import Model
from latentc_runtime.serve.options import CLOSED, HttpError, Options, http_error, refused
from latentc_runtime.serve.scheduler import Event, Failed, Job, Made, Preview, Progress
from latentc_runtime.serve.wire import Asked, asked_from_form, asked_from_json, asked_from_query
from latentc_runtime.sources import NUMPY

_log = logging.getLogger("latentc.serve")

KEEPALIVE = 15.0  # seconds of silence after which a stream sends a comment, for proxies
PATIENCE = 60.0  # seconds to wait for a body
BACKLOG = 4  # events that may wait for a slow client before it misses intermediate pictures

T = TypeVar("T")
Handler = Callable[[HttpRequest], Awaitable[Response]]


def handler(model: Model, options: Options, metrics: Metrics) -> Handler:
    """The handler of GET and POST requests for samples of one model."""

    async def sample(http: HttpRequest) -> Response:
        return await counted(http, model, metrics, _sample(http, model, options, metrics))

    return sample


async def counted(http: HttpRequest, model: Model, metrics: Metrics, answer: Awaitable[Response]) -> Response:
    """The answer of a model to a request, which the metrics count."""
    begin, status = time.monotonic(), 500
    try:
        response = await answer
        status = response.status_code
        return response
    except HttpError as refusal:
        status = refusal.status
        raise
    except HTTPException as refusal:  # of the framework, which parsed a form
        status = refusal.status_code
        raise
    except ClientDisconnect:  # while its body was read
        status = CLOSED
        http.scope["state"]["log"]["cancelled"] = True
        metrics.cancelled.labels(model.name).inc()
        return Response(status_code=status)
    finally:
        metrics.requests.labels(model.name, str(status)).inc()
        metrics.seconds.labels(model.name).observe(time.monotonic() - begin)


async def in_time(body: Awaitable[T]) -> T:
    """What is read of a request's body. HttpError 408 (E0618) if it takes too long."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await body
    except TimeoutError:
        what = f"the body of the request did not arrive within {PATIENCE:.0f} s"
        raise refused(408, "E0618", what, Connection="close") from None


async def _sample(http: HttpRequest, model: Model, options: Options, metrics: Metrics) -> Response:
    model.scheduler.check_room()  # before the body is read
    asked = await in_time(_asked(http, model, options))
    # In a thread, because a large condition takes a while to check.
    request = await run_in_threadpool(asked.request, model.manifest, options.max_samples, model.pipeline.indexes)
    output = request.outputs[0].output
    kind = answers.chosen_type(asked.format or http.headers.get("accept", ""), output)
    log = http.scope["state"]["log"]
    log.update(model=model.name, samples=len(request), type=kind)
    visit = Visit(http, model, request, metrics, previews=kind == answers.EVENTS)
    if kind == answers.EVENTS:
        return StreamingResponse(visit.stream(), media_type=answers.EVENTS, headers={"X-Accel-Buffering": "no"})
    outputs = await visit.whole()
    if outputs is None:
        return Response(status_code=CLOSED)
    if kind == answers.JSON:
        found = await run_in_threadpool(answers.rows, request, model.manifest.conditions, 0, outputs)
        return JSONResponse({"model": model.name, "samples": found})
    samples = next(iter(outputs.values()))
    columns = asked.columns or min(8, len(samples))
    body = await run_in_threadpool(answers.whole, samples, output, kind, columns)
    name = f"{model.name}{answers.SUFFIXES[kind]}"
    return Response(body, media_type=kind, headers={"Content-Disposition": f'inline; filename="{name}"'})


async def _asked(http: HttpRequest, model: Model, options: Options) -> Asked:
    if http.method in ("GET", "HEAD"):
        return asked_from_query(http.query_params.multi_items(), model.manifest)
    kind = http.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "application/json":
        return asked_from_json(await http.body() or b"{}")
    if kind != "multipart/form-data":
        mend = "send application/json, or multipart/form-data with files of conditions"
        raise refused(415, "E0618", f"the request has type {kind[:60]}", mend)
    # FastAPI would answer parser errors itself.
    form = await http.form(max_files=32, max_fields=32, max_part_size=options.max_body)
    files, text = {}, b"{}"
    for name, part in form.multi_items():
        content = await part.read() if isinstance(part, UploadFile) else part.encode()
        if name == "request":
            text = content
        else:
            files[name] = content
    await form.close()
    return await run_in_threadpool(asked_from_form, text, files, model.manifest, options.max_samples)


class Visit:
    """One request from its submission to its last event."""

    def __init__(self, http: HttpRequest, model: Model, request: Request, metrics: Metrics, previews: bool) -> None:
        self.http, self.model, self.request, self.metrics = http, model, request, metrics
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.job = Job(request, self._listen, previews)
        self.log = http.scope["state"]["log"]
        model.scheduler.submit(self.job)
        self.gone = asyncio.ensure_future(_gone(http))

    def _listen(self, event: Event) -> None:
        """Called in the scheduler's thread."""
        if isinstance(event, Preview) and self.events.qsize() >= BACKLOG:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server did not wait for this request
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def _received(self) -> AsyncIterator[Event | None]:
        """Events up to the last one; None after a silence. Ends early if the client leaves."""
        made = 0
        waiting: asyncio.Future[Event] | None = None
        try:
            while made < len(self.request):
                waiting = waiting or asyncio.ensure_future(self.events.get())
                both: set[asyncio.Future[Any]] = {waiting, self.gone}
                done, _ = await asyncio.wait(both, timeout=KEEPALIVE, return_when="FIRST_COMPLETED")
                if waiting in done:
                    event, waiting = waiting.result(), None
                    if isinstance(event, Made):
                        made += len(next(iter(event.outputs.values())))
                    yield event
                    if isinstance(event, Failed):
                        return
                elif self.gone in done:
                    return
                else:
                    yield None
        finally:
            if waiting is not None:
                waiting.cancel()
            self._leave(made)

    def _leave(self, made: int) -> None:
        self.gone.cancel()
        if started := self.job.started:
            self.log["queued"] = round(started - self.job.submitted, 6)
            self.metrics.queued.labels(self.model.name).observe(started - self.job.submitted)
        if made < len(self.request) and not self.job.cancelled:
            self.model.scheduler.cancel(self.job)
            self.log["cancelled"] = True
            self.metrics.cancelled.labels(self.model.name).inc()

    async def whole(self) -> dict[str, Array] | None:
        """All outputs, None if the client left. HttpError if sampling failed."""
        count, outs = len(self.request), self.request.outputs
        made = {o.name: np.empty((count, *o.output.shape), NUMPY[o.output.dtype]) for o in outs}
        rows = 0
        async for event in self._received():
            match event:
                case Made(start, outputs):
                    for name, array in outputs.items():
                        made[name][start : start + len(array)] = array
                    rows += len(next(iter(outputs.values())))
                case Failed(error):
                    raise http_error(error)
        return made if rows == count else None

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events."""
        count = len(self.request)
        first = {
            "samples": count,
            "waiting": self.model.scheduler.waiting,
            "request_id": self.http.scope["state"]["id"],
        }
        yield _event("accepted", first)
        made = 0
        async for event in self._received():
            try:
                for name, data in await run_in_threadpool(functools.partial(self._messages, event)):
                    yield _event(name, data)
            except HttpError as refusal:
                yield _failure(refusal)
                return
            if isinstance(event, Failed):
                return
            if isinstance(event, Made):
                made += len(next(iter(event.outputs.values())))
                yield _event("progress", {"done": made, "total": count})
            if event is None:
                yield KEEPALIVE_COMMENT
        if made == count:
            yield _event("done", {"samples": count})

    def _messages(self, event: Event | None) -> list[tuple[str, Any]]:
        """The message of an event to the client."""
        output = self.request.outputs[0]
        match event:
            case Progress(done, total):
                return [("progress", {"done": round(done, 3), "total": total})]
            case Preview(start, outputs):
                shown = [answers.preview(sample, output.output) for sample in outputs[output.name]]
                return [("preview", {"index": start + i, "content": parts}) for i, parts in enumerate(shown) if parts]
            case Made(start, outputs):
                found = answers.rows(self.request, self.model.manifest.conditions, start, outputs)
                return [("sample", item) for item in found]
            case Failed(error):
                raise http_error(error)
        return []


async def _gone(http: HttpRequest) -> None:
    """Returns when the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data))


def _failure(refusal: HttpError) -> bytes:
    error = refusal.error
    fields = {"code": error.code, "message": error.message, "help": error.help, "status": refusal.status}
    return _event("error", fields)
