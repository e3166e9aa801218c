"""A client of `latentc serve`, with the arguments of `Pipeline.sample`; numpy and the standard library only.

from latentc_runtime.client import Client
client = Client("http://127.0.0.1:8000", key="…")
samples = client.sample(classes=["seven", 3], seeds=7, guidance=2.0)  # an array, [B, ...]
for one in client.samples(classes="0-9", seeds=7):  # pictures, each with its seed, label and settings
    open(f"{one.index}.png", "wb").write(one.png)
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import ArrayLike

from latentc_runtime.backends import Array
from latentc_runtime.errors import BundleError

_JSON, _NPZ = "application/json", "application/x-npz"


class ServerError(BundleError):
    """The server's own diagnostic, with the HTTP status, and the id under which the server logged the request."""

    def __init__(self, status: int, code: str, message: str, help: str | None, request_id: str | None) -> None:
        super().__init__(code, message, help)
        self.status, self.request_id = status, request_id


@dataclass(frozen=True)
class Sample:
    """One sample and what it was made from. `content`: its files by media type; text is UTF-8.

    `outputs`: other outputs of the program by name, and the sample itself if no file can show it, as lists.
    """

    index: int
    seed: int
    labels: dict[str, int]
    names: dict[str, str]
    settings: dict[str, float]
    content: dict[str, bytes]
    outputs: dict[str, Any]

    @property
    def png(self) -> bytes:
        """The picture. Raises BundleError E0612 if the sample has none."""
        if "image/png" not in self.content:
            held = ", ".join(self.content) or "only numbers, in `outputs`"
            raise BundleError("E0612", "the sample is no picture", f"it has {held}")
        return self.content["image/png"]


class Client:
    """A server at `address`, and its model of that name, which a server of one model does not need.

    `key`: the API key, by default that in LATENTC_API_KEY. `timeout`: seconds to wait for an answer. Methods raise
    ServerError with the server's diagnostic, and BundleError E0621 if there is no answer of a server of latentc.
    """

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        model: str | None = None,
        *,
        key: str | None = None,
        timeout: float = 300.0,
    ) -> None:
        if not address.startswith(("http://", "https://")):
            raise BundleError("E0621", f"`{address}` is no address of a server", "write http://HOST:PORT")
        self.address, self.timeout = address.rstrip("/"), timeout
        self._model, self._key = model, key or os.environ.get("LATENTC_API_KEY")
        self._opener = urllib.request.build_opener(_Stay())

    def models(self) -> list[dict[str, Any]]:
        """The inputs and outputs of each model of the server, as `/v1/models` says."""
        found: list[dict[str, Any]] = self._json("/v1/models")["models"]
        return found

    @property
    def model(self) -> str:
        """The name of the model. Raises BundleError E0617 if none was given and the server has several."""
        if self._model is None:
            names = [model["name"] for model in self.models()]
            if len(names) != 1:
                mend = f'name one: Client("{self.address}", "{names[0]}")' if names else None
                raise BundleError("E0617", f"the server has {len(names)} models: {', '.join(names)}", mend)
            self._model = names[0]
        return self._model

    def ready(self) -> bool:
        """True if every model of the server answers requests."""
        try:
            return bool(self._json("/readyz")["ready"])
        except BundleError:
            return False

    def sample(
        self,
        classes: ArrayLike | Sequence[int | str] | None = None,
        seeds: ArrayLike = 0,
        *,
        conditions: Mapping[str, Any] | None = None,
        guidance: ArrayLike | None = None,
        truncation: ArrayLike | None = None,
        settings: Mapping[str, ArrayLike] | None = None,
        noise: Mapping[str, ArrayLike] | None = None,
        count: int | None = None,
        program: str | None = None,
        steps: int | None = None,
    ) -> Array:
        """The first output of a program, [B, ...], as `Pipeline.sample` gives it on the server, with its arguments."""
        return self._array(_fields(locals()))

    def samples(
        self,
        classes: ArrayLike | Sequence[int | str] | None = None,
        seeds: ArrayLike = 0,
        *,
        conditions: Mapping[str, Any] | None = None,
        guidance: ArrayLike | None = None,
        truncation: ArrayLike | None = None,
        settings: Mapping[str, ArrayLike] | None = None,
        noise: Mapping[str, ArrayLike] | None = None,
        count: int | None = None,
        program: str | None = None,
        steps: int | None = None,
    ) -> list[Sample]:
        """Samples as files (pictures, sound, text), each with its seed, labels and settings; see `sample`."""
        asked = _fields(locals())
        return [_sample(item) for item in json.loads(self._post(asked, _JSON))["samples"]]

    def _array(self, asked: dict[str, Any]) -> Array:
        with np.load(io.BytesIO(self._post(asked, _NPZ)), allow_pickle=False) as archive:
            array: Array = archive["samples"]
            return array

    def _post(self, asked: dict[str, Any], accept: str) -> bytes:
        """The answer to a request: JSON, or a form if it has arrays."""
        files = {name: value for name, value in asked["conditions"].items() if _is_file(value)}
        parts = {name: _file(value) for name, value in files.items()}
        asked["conditions"] = {name: v for name, v in asked["conditions"].items() if name not in files}
        parts |= {f"noise.{name}": _file(value) for name, value in asked.pop("noise").items()}
        body = json.dumps(asked, default=_plain).encode()
        kind = _JSON
        if parts:
            kind, body = _form({"request": body, **parts})
        path = f"/v1/models/{quote(self.model, safe='')}/sample"
        return self._answer(path, body, {"Content-Type": kind, "Accept": accept})

    def _json(self, path: str) -> Any:
        try:
            return json.loads(self._answer(path, None, {"Accept": _JSON}))
        except ValueError:
            raise self._unknown("what it answers is not JSON") from None

    def _answer(self, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self.address + path, body, headers)
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            raise BundleError(
                "E0621",
                f"the server at {self.address} does not answer: {reason}",
                "start it with `latentc serve BUNDLE`, or check the address",
            ) from None

    def _refusal(self, error: urllib.error.HTTPError) -> BundleError:
        with error:
            try:
                said = json.loads(error.read())
                return ServerError(error.code, said["code"], said["message"], said["help"], said["request_id"])
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
                return self._unknown(f"status {error.code} ({error.reason})")

    def _unknown(self, what: str) -> BundleError:
        return BundleError("E0621", f"{self.address} is no server of latentc: {what}", "check the address")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which would carry the key to another server."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a request from the arguments of a method."""
    fields = {name: value for name, value in given.items() if name != "self" and value is not None}
    for name in ("conditions", "noise", "settings"):
        if not isinstance(fields.setdefault(name, {}), Mapping):
            message = f"`{name}` must be values by name, not {type(fields[name]).__name__}"
            raise BundleError("E0608", message, f'give a mapping: {name}={{"NAME": …}}')
    return fields


def _is_file(value: Any) -> bool:
    if isinstance(value, Mapping) and not value.keys() <= {"value", "mask"}:
        return False  # the server says what it takes
    arrays = value.values() if isinstance(value, Mapping) else [value]
    return any(isinstance(array, np.ndarray) for array in arrays)


def _file(value: Any) -> bytes:
    """An array as .npy; `value` and `mask` as .npz."""
    file = io.BytesIO()
    try:
        if isinstance(value, Mapping):
            np.savez(file, allow_pickle=False, **{name: np.asarray(array) for name, array in value.items()})
        else:
            np.save(file, np.asarray(value), allow_pickle=False)
    except (ValueError, OverflowError):  # lists of different lengths, objects
        raise BundleError("E0608", "what is given is no array of numbers", "give numbers") from None
    return file.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise BundleError("E0608", f"a {type(value).__name__} cannot be sent to a server", "give numbers, text or arrays")


def _form(parts: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Content type and body of a form. Source: RFC 7578."""
    border = uuid.uuid4().hex
    body = io.BytesIO()
    for name, content in parts.items():
        escaped = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        file = "" if name == "request" else '; filename="array"'
        head = f'--{border}\r\nContent-Disposition: form-data; name="{escaped}"{file}\r\n\r\n'
        body.write(head.encode() + content + b"\r\n")
    body.write(f"--{border}--\r\n".encode())
    return f"multipart/form-data; boundary={border}", body.getvalue()


def _sample(item: dict[str, Any]) -> Sample:
    content = {
        kind: text.encode() if kind == "text/plain" else base64.b64decode(text)
        for kind, text in item["content"].items()
    }
    names, outputs = item.get("names", {}), item.get("outputs", {})
    return Sample(item["index"], item["seed"], item["labels"], names, item["settings"], content, outputs)


__all__ = ["Client", "Sample", "ServerError"]
