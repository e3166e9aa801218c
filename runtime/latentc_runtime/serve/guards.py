"""Checks of every request before its handler (identity, origin, key, size), and headers of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Iterable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentc_runtime.errors import BundleError
from latentc_runtime.serve.options import CLOSED, HttpError, Options, refused

_log = logging.getLogger("latentc.serve")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
BODIES = 16  # largest number of bodies of maximum size held at once
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
OPENAI = "/v1/images/"
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPEN = re.compile(r"/(docs|healthz|readyz|static/.*)?")  # paths that need no key

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "media-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


def error_body(refusal: HttpError, path: str, request_id: str) -> bytes:
    """A diagnostic as JSON; at addresses of OpenAI's interface in its form, with the help in the message."""
    error = refusal.error
    fields: dict[str, Any] = {"code": error.code, "message": error.message, "help": error.help}
    if path.startswith(OPENAI):
        text = f"{error.message}; {error.help}" if error.help else error.message
        kind = "server_error" if refusal.status >= 500 else _KINDS.get(refusal.status, "invalid_request_error")
        fields = {"error": {"message": text, "type": kind, "param": refusal.field, "code": error.code}}
    return json.dumps({**fields, "request_id": request_id}).encode()


class Guard:
    """ASGI middleware; handlers find the request's id in `scope["state"]["id"]`, and may add to `["log"]`."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self.app, self.options = app, options
        self.held = 0  # bytes of the bodies of unfinished requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["id"], state["log"], state["size"] = request_id, {}, 0
        begin, status = time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *self._headers(scope["path"], request_id)]
            await send(message)

        try:
            try:
                self._check(scope, headers)
                await self.app(scope, self._counted(receive, state), answer)
            except HttpError as refusal:
                if refusal.status == 413:
                    await _discard(receive)
                await _send_error(answer, refusal, scope["path"], request_id)
            except ClientDisconnect:
                status = CLOSED
            except Exception:
                _log.exception("internal error", extra={"request": request_id, "path": scope["path"]})
                if status:
                    raise
                fault = BundleError("E0901", "the server failed", "report it, together with the server's log")
                await _send_error(answer, HttpError(500, fault), scope["path"], request_id)
        finally:
            self.held -= state["size"]
            if scope["path"] not in ("/healthz", "/readyz", "/metrics"):
                seconds = round(time.monotonic() - begin, 6)
                fields = {"request": request_id, "method": scope["method"], "path": scope["path"], "status": status}
                _log.info("request", extra={**fields, "seconds": seconds, **state["log"]})

    def _headers(self, path: str, request_id: str) -> Iterable[tuple[bytes, bytes]]:
        fixed = {**_HEADERS, "x-request-id": request_id}
        if not path.startswith("/static/"):
            fixed["cache-control"] = "no-store"
        return [(name.encode(), value.encode("latin-1")) for name, value in fixed.items()]

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        """HttpError for a request that must not be served."""
        host = headers.get("host", "")
        if self.options.loopback and re.sub(r":\d*$", "", host).lower() not in _LOCAL:
            # Otherwise a page of another site could reach this machine under its own name (DNS rebinding).
            raise refused(
                403,
                "E0616",
                "this server answers only requests to localhost",
                "use http://127.0.0.1, or start it with `--host`",
            )
        if _OPEN.fullmatch(scope["path"]):
            return
        if headers.get("sec-fetch-site") == "cross-site":
            raise refused(403, "E0616", "pages of other sites cannot use this server", "open the server's own page")
        if self.options.key is not None:
            scheme, _, token = headers.get("authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            if not hmac.compare_digest(given.encode(), self.options.key.encode()):
                what = "wrong" if given else "missing"
                mend = "send it as `Authorization: Bearer KEY`"
                raise refused(401, "E0616", f"the API key is {what}", mend, WWW_Authenticate="Bearer")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.options.max_body:
            raise self._too_large()

    def _counted(self, receive: Receive, state: dict[str, Any]) -> Receive:
        """`receive`, which bounds a body that did not say how large it is, and all bodies together."""

        async def counted() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            state["size"] += size
            self.held += size
            large, full = state["size"] > self.options.max_body, self.held > BODIES * self.options.max_body
            if (large or full) and message.get("more_body", False):
                await _discard(receive)
            if large:
                raise self._too_large()
            if full:
                raise refused(503, "E0614", "too many requests are being read", "try again", Retry_After="1")
            return message

        return counted

    def _too_large(self) -> HttpError:
        most = self.options.max_body
        mend = "send less, or start the server with a larger `--max-body`"
        return refused(413, "E0615", f"the body of the request has more than {most} bytes", mend, Connection="close")


async def _discard(receive: Receive) -> None:
    """Read the rest of a body for up to two seconds: closing the connection on it would lose the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while (await receive()).get("more_body", False):
                pass


async def _send_error(send: Send, refusal: HttpError, path: str, request_id: str) -> None:
    body = error_body(refusal, path, request_id)
    fields: dict[str, Any] = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    headers = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
