"""Hostile requests over real HTTP: each gets an answer of its own, 2xx or 4xx, in bounded memory and a quiet log."""

from __future__ import annotations

import io
import json
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from served import mel_bundle, served, tiny_bundles, two_step_counts

from latentc.files.shipped import codes

MODELS = ("host", "tokens", "mel")
BODY = 200_000  # largest body that the server reads
EVIL = "\x1b]0;x\x07\u202e\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("bundles")
    host, tokens = two_step_counts(folder / "host"), tiny_bundles.token_bundle(folder / "tokens")
    bundles = [f"host={host}", f"tokens={tokens}", f"mel={mel_bundle(folder / 'mel')}"]
    with served(*bundles, preview=0.0, max_samples=16, max_body=BODY) as (web, app):
        yield web, app


@pytest.fixture
def quiet(server, caplog: pytest.LogCaptureFixture):
    """Fails if anything was logged as an error, or if the process grew by much."""
    caplog.set_level("INFO")
    before = held()
    yield
    noise = [record for record in caplog.records if record.exc_info or record.levelno >= 40]
    assert not noise, [record.getMessage() for record in noise]
    assert held() - before < 200 << 20
    assert server[0].get("/readyz").status_code == 200


def held() -> int:
    """Bytes of memory that this process holds; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status.read_text())[1]) << 10 if status.exists() else 0  # type: ignore[index]


def fine(answer: httpx.Response, case: object) -> None:
    assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, (case, answer.status_code, answer.text)
    if answer.status_code >= 400:
        found = answer.json()
        assert found["code"] in codes() and found["message"], case
        assert found["request_id"] == answer.headers["x-request-id"]


NUMBERS = [0, 1, -1, 9, 10, 16, 17, 1 << 31, 1 << 63, 1 << 64, 10**400, 0.5, -0.0, 1e308, 1e39, True, None]
TEXTS = [
    "",
    "a",
    "zero",
    "all",
    "0-9",
    "9-0",
    "0-9," * 999,
    "inf",
    "nan",
    "\0",
    EVIL,
    "\ud800",
    "é" * 3000,
    "[1",
    "{}",
    "'",
]
NAMES = [
    *("classes", "seeds", "count", "conditions", "guidance", "truncation", "settings", "noise"),
    *("program", "steps", "columns", "format", "__class__", "", EVIL),
]
KEYS = ["value", "mask", "class", "mel", "guidance", "query", "", EVIL]


def some(chance: random.Random, depth: int = 0) -> Any:
    """A value of JSON."""
    match chance.randrange(5 if depth < 4 else 2):
        case 0:
            return chance.choice(NUMBERS)
        case 1:
            return chance.choice(TEXTS)
        case 2:
            return {chance.choice(KEYS): some(chance, depth + 1) for _ in range(2)}
        case 3:
            return [some(chance, depth + 1)] * chance.choice([0, 1, 3, 300 if depth == 0 else 17])
        case _:
            return [some(chance, depth + 1) for _ in range(chance.randrange(4))]


def test_bodies_of_json(server, quiet) -> None:
    web, _ = server
    chance = random.Random(1)
    for _ in range(150):
        body = {"classes": [1], **{chance.choice(NAMES): some(chance) for _ in range(chance.randrange(4))}}
        if chance.random() < 0.2:
            body["conditions"] = {chance.choice(["mel", "class"]): some(chance)}
        if chance.random() < 0.1:
            body["noise"] = {chance.choice(["out", "n"]): some(chance)}
        accept = chance.choice(
            ["", "application/json", "image/png", "application/x-npz", "text/event-stream", EVIL[:4]]
        )
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json", "accept": accept.replace("\x1b", "x")}
        fine(web.post(f"/v1/models/{chance.choice(MODELS)}/sample", content=content, headers=headers), body)


RAW = {
    "empty": b"",
    "null": b"null",
    "NaN": b'{"guidance": NaN}',
    "infinity": b'{"classes": [1], "guidance": -Infinity}',
    "deep lists": b"[" * 90_000,
    "deep objects": b'{"a":' * 30_000,
    "deep value": b'{"conditions": {"mel": ' + b"[" * 900 + b"1" + b"]" * 900 + b"}}",
    "deeper than axes": b'{"conditions": {"mel": ' + b"[" * 70 + b"1" + b"]" * 70 + b"}}",
    "digits": b'{"seeds": ' + b"9" * 5000 + b"}",
    "float of digits": b'{"classes": [1], "guidance": 1e' + b"9" * 20 + b"}",
    "twice": b'{"classes": [1], "classes": [2]}',
    "not UTF-8": b'{"program": "\xff\xfe"}',
    "surrogates": b'{"program": "\\ud800", "classes": ["\\udfff"]}',
    "zeros": bytes(1000),
    "byte order mark": b'\xef\xbb\xbf{"classes": [1]}',
    "UTF-16": '{"classes": [1]}'.encode("utf-16"),
    "many seeds": json.dumps({"classes": [1], "seeds": [0] * 60_000}).encode(),
    "many empty lists": b'{"classes": [' + b"[]," * 60_000 + b"[]]}",
    "many names": json.dumps({"settings": {f"s{i}": 1 for i in range(9000)}}).encode(),
}


@pytest.mark.parametrize("case", RAW)
def test_bodies_that_are_no_requests(server, quiet, case: str) -> None:
    web, _ = server
    for model in MODELS:
        headers = {"content-type": "application/json"}
        fine(web.post(f"/v1/models/{model}/sample", content=RAW[case], headers=headers), case)


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + body


def declared(dtype: str, shape: str) -> str:
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}"


def zipped(method: int = zipfile.ZIP_DEFLATED, **entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = saved(np.zeros((1, 2, 2), np.float32))
ARCHIVE = zipped(value=GOOD)
FILES = {
    "empty": b"",
    "brackets": npy("(" * 3000),
    "square brackets": npy("[" * 3000),
    "signs": npy("-" * 3000),
    "declares 10^11": npy(declared("<f4", "(100000000000,)")),
    "declares 10^11 of nothing": npy(declared("|V0", "(100000000000, 1, 2, 2)")),
    "declares a negative size": npy(declared("<f4", "(-1,)"), bytes(4)),
    "declares 99 axes": npy(declared("<f4", f"({'1,' * 99})"), bytes(4)),
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "version 9": npy("{}", version=9),
    "no header": b"\x93NUMPY",
    "objects": npy(declared("|O", "(1, 2, 2)"), bytes(32)),
    "records": npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 2, 2), }", bytes(16)),
    "complex": saved(np.zeros((1, 2, 2), np.complex64)),
    "texts": saved(np.array([["a", "b"]])),
    "dates": saved(np.zeros((1, 2, 2), "M8[s]")),
    "not finite": saved(np.full((1, 2, 2), np.nan, np.float32)),
    "too large for float32": saved(np.full((1, 2, 2), 1e300)),
    "too many": saved(np.zeros((17, 1, 2, 2), np.float32)),
    "no samples": saved(np.zeros((0, 1, 2, 2), np.float32)),
    "no sizes": saved(np.zeros((1, 0, 2), np.float32)),
    "a bomb": zipped(value=bytes(50_000_000)),
    "a bomb of entries": zipped(**{f"x{i}": GOOD for i in range(500)}),
    "a header as a bomb": zipped(value=b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + bytes(1000)),
    "LZMA": zipped(zipfile.ZIP_LZMA, value=GOOD),
    "two arrays": zipped(value=GOOD, more=GOOD),
    "a mask": zipped(value=GOOD, mask=saved(np.ones(2, bool))),
    "an empty archive": zipped(),
    "half an archive": ARCHIVE[: len(ARCHIVE) // 2],
    "a checksum": ARCHIVE.replace(ARCHIVE[45:50], bytes(5)),
    "encrypted": ARCHIVE.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
    "only a signature": b"PK\x03\x04",
    "NaN": b"[[[NaN, NaN], [0, 0]]]",
    "deep": b"[" * 90_000,
    "control characters": EVIL.encode(),
}


@pytest.mark.parametrize("case", FILES)
def test_files_of_conditions(server, quiet, case: str) -> None:
    web, _ = server
    answer = web.post("/v1/models/mel/sample", data={"request": '{"seeds": 1}'}, files={"mel": FILES[case]})
    fine(answer, case)
    assert answer.status_code >= 400, case
    answer = web.post("/v1/models/host/sample", data={"request": '{"classes": [1]}'}, files={"noise.out": FILES[case]})
    fine(answer, case)
    assert answer.status_code >= 400, case


def form(*parts: tuple[str, bytes], boundary: str = "x", end: str = "--x--\r\n") -> bytes:
    body = b"".join(f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n" for head, content in parts)
    return body + end.encode()


NAME = "content-disposition: form-data; name="
FORMS = {
    "empty": b"",
    "no parts": form(),
    "no end": form((f'{NAME}"request"', b"{}"), end=""),
    "no name": form(("content-disposition: form-data", b"{}")),
    "no disposition": form(("content-type: text/plain", b"{}")),
    "request twice": form((f'{NAME}"request"', b"{}"), (f'{NAME}"request"', b"[]")),
    "request as a file": form((f'{NAME}"request"; filename="r.json"', b'{"seeds": 1}')),
    "a name of control characters": form((f'{NAME}"\x1b[31m"; filename="a"', GOOD)),
    "an unknown charset": form((f'{NAME}"request"\r\ncontent-type: text/plain; charset=utf-99', b"{}")),
    "a path as a file's name": form((f'{NAME}"mel"; filename="../../etc/passwd"', b"[]")),
    "many fields": form(*[(f'{NAME}"f{i}"', b"1") for i in range(200)]),
    "many files": form(*[(f'{NAME}"f{i}"; filename="f"', b"1") for i in range(200)]),
    "long headers": form((f'{NAME}"request"; x="{"y" * 50_000}"', b"{}")),
    "many headers": form((f'{NAME}"request"' + "\r\na: b" * 5000, b"{}")),
    "another boundary": form((f'{NAME}"request"', b"{}"), boundary="z", end="--z--"),
    "bytes": random.Random(0).randbytes(3000),
}


@pytest.mark.parametrize("case", FORMS)
def test_forms(server, quiet, case: str) -> None:
    web, _ = server
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "multipart/form-data; boundary="):
        fine(web.post("/v1/models/mel/sample", content=FORMS[case], headers={"content-type": kind}), case)


def test_addresses_headers_and_methods(server, quiet) -> None:
    web, _ = server
    chance = random.Random(2)
    values = [
        "",
        "1",
        "-1",
        "1e999",
        "inf",
        "[",
        "[[1]]",
        "{}",
        "null",
        "%00",
        "%1b%5b31m",
        "%ff",
        "a,b",
        "9" * 400,
        "💥",
    ]
    fields = [*NAMES[:-2], "mel", "class", "x", "%1b"]
    for _ in range(120):
        query = "&".join(f"{chance.choice(fields)}={chance.choice(values)}" for _ in range(chance.randrange(4)))
        fine(web.get(f"/v1/models/{chance.choice(MODELS)}/sample?{query}"), query)
    for path in (
        "/v1/models/%2e%2e/sample",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/%00",
        "/%1b",
        "/static/%00",
        "/" + "a" * 9000,
    ):
        fine(web.get(path), path)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "BREW"):
        answer = web.request(method, "/v1/models/host/sample?classes=1")
        assert answer.status_code < 500, method
    for headers in (
        {"accept": "," * 3000},
        {"accept": "image/png;q=" + "9" * 400},
        {"accept": "*/*;q=nan, image/png;q=inf"},
        {"content-type": "\xff"},
        {"content-type": "application/json; charset=utf-99"},
        {"x-request-id": "\xff" * 99},
        {"authorization": "Bearer \xff"},
    ):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = web.post("/v1/models/host/sample", content=b'{"classes": [1]}', headers=raw)
        assert answer.status_code < 500, headers
