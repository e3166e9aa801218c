"""What the server answers: samples by the medium and the Accept header, events, errors as JSON, states."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import threading
import time
import zipfile

import httpx
import numpy as np
import pytest
from served import NAMES, Gate, events, eventually, mel_bundle, served, tiny_bundles, two_step_counts

import latentc_runtime
from latentc.files.shipped import codes
from latentc_runtime import BundleError
from latentc_runtime.manifest import Output
from latentc_runtime.serve import answers, guards, sampling
from latentc_runtime.serve.options import HttpError, Options
from latentc_runtime.serve.run import create_app
from latentc_runtime.serve.uploads import value_from_bytes
from latentc_runtime.sources import Condition

SAMPLE = "/v1/models/host/sample"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Three bundles behind one server."""
    folder = tmp_path_factory.mktemp("bundles")
    host, tokens = two_step_counts(folder / "host"), tiny_bundles.token_bundle(folder / "tokens")
    bundles = [f"host={host}", f"tokens={tokens}", f"mel={mel_bundle(folder / 'mel')}"]
    with served(*bundles, preview=0.0, max_samples=16, max_body=200_000) as (web, app):
        yield web, app


def direct(app, name: str, **arguments) -> np.ndarray:
    return app.models[name].pipeline.sample(**arguments)


def test_samples_come_in_the_accepted_type(server) -> None:
    web, app = server
    asked = {"classes": [3, 5, 7], "seeds": 11, "guidance": 2.5}
    expected = direct(app, "host", **asked)
    pictures = latentc_runtime.grid(app.models["host"].pipeline.images(expected), columns=3, gap=2)

    answer = web.post(SAMPLE, json=asked)
    assert answer.headers["content-type"] == "image/png" and answer.content == latentc_runtime.png(pictures)
    answer = web.post(SAMPLE, json=asked, headers={"accept": "text/html, image/*;q=0.8, */*;q=0.1"})
    assert answer.content == latentc_runtime.png(pictures)
    answer = web.post(SAMPLE, json=asked, headers={"accept": "application/x-npz"})
    assert np.array_equal(np.load(io.BytesIO(answer.content))["samples"], expected)

    answer = web.post(SAMPLE, json=asked, headers={"accept": "application/json"}).json()["samples"]
    assert [(s["index"], s["seed"], s["labels"], s["names"]["class"], s["settings"]) for s in answer] == [
        (i, 11 + i, {"class": c}, NAMES[c], {"guidance": 2.5}) for i, c in enumerate((3, 5, 7))
    ]
    single = app.models["host"].pipeline.images(expected[1:2])[0]
    assert base64.b64decode(answer[1]["content"]["image/png"]) == latentc_runtime.png(single)


def test_an_address_samples_as_a_body_does(server) -> None:
    web, app = server
    address = "/v1/models/host/sample?classes=3,5&seeds=7,1&guidance=2&columns=1&format=npz"
    answer = np.load(io.BytesIO(web.get(address).content))["samples"]
    assert np.array_equal(answer, direct(app, "host", classes=[3, 5], seeds=[7, 1], guidance=2.0))
    again = web.get("/v1/models/host/sample?classes=3&classes=5&seeds=7&seeds=1&guidance=2&format=npz")
    assert np.array_equal(np.load(io.BytesIO(again.content))["samples"], answer)
    one = web.get("/v1/models/tokens/sample", params={"class": 4, "seeds": 3, "format": "npz"})
    assert np.array_equal(np.load(io.BytesIO(one.content))["samples"], direct(app, "tokens", classes=[4], seeds=3))
    assert web.get("/v1/models/host/sample?classes=1").headers["content-type"] == "image/png"


def test_classes_have_names(server) -> None:
    web, app = server
    expected = direct(app, "host", classes=[4, 4, 0, 1, 2], seeds=1)
    asked = {"classes": ["Quattuor", 4, "zero", "one", 2], "seeds": 1, "format": "npz"}
    answers = [
        web.post(SAMPLE, json=asked),
        web.get(f"{SAMPLE}?classes=four,4,0-2&seeds=1&format=npz"),
    ]
    for answer in answers:
        assert np.array_equal(np.load(io.BytesIO(answer.content))["samples"], expected)
    answer = web.get(f"{SAMPLE}?classes=tree")
    assert answer.json()["code"] == "E0608" and "`three` (3)" in answer.json()["help"]
    assert web.get(f"{SAMPLE}?classes=0-9,0-9").json()["code"] == "E0608"


def test_events_show_unfinished_pictures_and_then_the_samples(server) -> None:
    web, _ = server
    asked = {"classes": [3, 5], "seeds": 7}
    with web.stream("POST", SAMPLE, json=asked, headers={"accept": "text/event-stream"}) as answer:
        got = list(events(answer))
    names = [name for name, _ in got]
    assert names == ["accepted", *["preview"] * 4, "sample", "sample", "progress", "done"]
    whole = web.post(SAMPLE, json=asked, headers={"accept": "application/json"}).json()["samples"]
    assert [data for name, data in got if name == "sample"] == whole
    assert got[1][1]["content"]["image/png"] != whole[0]["content"]["image/png"]


def test_conditions_come_as_files(server) -> None:
    web, app = server
    mel = np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    expected = direct(app, "mel", conditions={"mel": mel}, seeds=[5])
    file, archive = io.BytesIO(), io.BytesIO()
    np.save(file, mel)
    np.savez_compressed(archive, value=mel)
    sent = [file.getvalue(), archive.getvalue(), json.dumps(mel.tolist()).encode()]
    for content in sent:
        answer = web.post(
            "/v1/models/mel/sample?ignored",
            data={"request": '{"seeds": [5], "format": "npz"}'},
            files={"mel": content},
        )
        assert np.array_equal(np.load(io.BytesIO(answer.content))["samples"], expected)
    answer = web.post("/v1/models/mel/sample", json={"seeds": [5], "conditions": {"mel": mel.tolist()}})
    assert answer.status_code == 200


REFUSED = {
    "class": ({"json": {"classes": [10]}}, 400, "E0608"),
    "field": ({"json": {"clases": [1]}}, 400, "E0618"),
    "type": ({"json": {"classes": [1], "count": "two"}}, 400, "E0618"),
    "not an object": ({"json": [1]}, 400, "E0618"),
    "not JSON": ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "E0618"),
    "nested": ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400, "E0618"),
    "another type": ({"content": b"<a/>", "headers": {"content-type": "text/xml"}}, 415, "E0618"),
    "broken form": ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400, "E0618"),
    "unknown file": ({"data": {"request": '{"classes": [1]}'}, "files": {"mel": b"[]"}}, 400, "E0608"),
    "none": ({"json": {"classes": []}}, 400, "E0608"),
    "too many": ({"json": {"classes": [1], "count": 17}}, 400, "E0608"),
    "too many classes": ({"json": {"classes": [1] * 17}}, 400, "E0608"),
    "too many seeds": ({"json": {"classes": [1], "seeds": list(range(17))}}, 400, "E0608"),
    "setting": ({"json": {"classes": [1], "settings": {"heat": 1}}}, 400, "E0608"),
    "twice": ({"json": {"classes": [1], "guidance": 2, "settings": {"guidance": 2}}}, 400, "E0608"),
    "not finite": ({"json": {"classes": [1], "guidance": 1e300}}, 400, "E0608"),
    "steps": ({"json": {"classes": [1], "steps": 77}}, 400, "E0609"),
    "program": ({"json": {"classes": [1], "program": "encode"}}, 400, "E0609"),
    "format": ({"json": {"classes": [1], "format": "wav"}}, 406, "E0612"),
    "accept": ({"json": {"classes": [1]}, "headers": {"accept": "audio/wav"}}, 406, "E0612"),
    "body": ({"content": b" " * 300_000, "headers": {"content-type": "application/json"}}, 413, "E0615"),
    "site": ({"json": {"classes": [1]}, "headers": {"sec-fetch-site": "cross-site"}}, 403, "E0616"),
    "host": ({"json": {"classes": [1]}, "headers": {"host": "evil.example"}}, 403, "E0616"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_diagnostics(server, case: str) -> None:
    web, _ = server
    arguments, status, code = REFUSED[case]
    answer = web.post(SAMPLE, **arguments)
    found = answer.json()
    assert (answer.status_code, found["code"]) == (status, code)
    assert found["message"] and found["request_id"] == answer.headers["x-request-id"]
    assert code.startswith("E06") and code in codes()
    assert case != "none" or found["message"] == "the request asks for 0 samples"


def test_a_body_of_unknown_length_is_cut_off(server) -> None:
    web, _ = server
    pieces = (b" " * 50_000 for _ in range(8))
    answer = web.post(SAMPLE, content=pieces, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "E0615")


def test_no_request_makes_the_server_fail(server) -> None:
    """Bodies of every shape: answered, or refused with a diagnostic."""
    web, _ = server
    rng = random.Random(0)
    numbers = [0, 1, -1, 9, 10, 255, 1 << 63, (1 << 64) - 1, 1 << 64, 10**40, 0.5, 1e308, 1e39, True, None]
    texts = ["", "a", "zero", "all", "9-0", "0-9,0-9", "inf", "nan", "\0", "é" * 300, "[1", "{}", "\U0001f600"]
    names = [
        "classes",
        "seeds",
        "count",
        "conditions",
        "guidance",
        "settings",
        "noise",
        "program",
        "steps",
        "columns",
        "format",
    ]

    def value(depth: int = 0) -> object:
        kind = rng.randrange(4 if depth < 4 else 2)
        if kind == 0:
            return rng.choice(numbers)
        if kind == 1:
            return rng.choice(texts)
        if kind == 2:
            return {rng.choice(["value", "mask", "class", "mel", "guidance", ""]): value(depth + 1) for _ in range(2)}
        return [value(depth + 1) for _ in range(rng.randrange(4))]

    for _ in range(80):
        body = {"classes": [1], **{rng.choice(names): value() for _ in range(rng.randrange(3))}}
        model = rng.choice(["host", "tokens", "mel"])
        answer = web.post(f"/v1/models/{model}/sample", json=body)
        assert answer.status_code < 500, body
        assert answer.status_code == 200 or answer.json()["code"].startswith("E06")


def test_a_slow_body_is_given_up(server, monkeypatch) -> None:
    web, _ = server
    monkeypatch.setattr(sampling, "PATIENCE", 0.2)

    def slow():
        yield b'{"classes": '
        time.sleep(0.6)
        yield b"[1]}"

    answer = web.post(SAMPLE, content=slow(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (408, "E0618")


def test_all_bodies_together_are_bounded(server, monkeypatch) -> None:
    web, _ = server
    monkeypatch.setattr(guards, "BODIES", 0.1)  # 20 kB
    json = {"conditions": {"mel": [[[0.0, 0.0], [0.0, 0.0]]]}}
    large = {**json, "program": "x" * 30_000}
    answer = web.post("/v1/models/mel/sample", json=large)
    assert (answer.status_code, answer.json()["code"]) == (503, "E0614") and answer.headers["retry-after"] == "1"
    for _ in range(3):  # what a request held is free when it has ended
        assert web.post("/v1/models/mel/sample", json=json).status_code == 200


def test_addresses_that_do_not_exist(server) -> None:
    web, _ = server
    for method, address, status in (("GET", "/v1/models/x", 404), ("PUT", SAMPLE, 405), ("GET", "/static/..%2f", 404)):
        answer = web.request(method, address)
        assert (answer.status_code, answer.json()["code"]) == (status, "E0617")
    assert web.get("/v1/models/host/sample?clases=1").json()["code"] == "E0618"


@pytest.mark.parametrize("name", ["host", "tokens", "mel"])
def test_the_examples_of_openapi_work(server, name: str) -> None:
    web, _ = server
    paths = web.get("/openapi.json").json()["paths"]
    body = paths[f"/v1/models/{name}/sample"]["post"]["requestBody"]["content"]["application/json"]
    example = body["examples"][name]["value"]
    assert set(example) <= set(body["schema"]["properties"])
    assert web.post(f"/v1/models/{name}/sample", json=example).status_code == 200


def test_every_answer_forbids_other_sources(server) -> None:
    web, _ = server
    for address in ("/", "/v1/models", "/nowhere", "/static/style.css"):
        headers = web.get(address).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
    assert "unsafe" not in headers["content-security-policy"]


def test_ids_of_requests_are_kept_if_they_are_plain(server) -> None:
    web, _ = server
    assert web.get("/healthz", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert web.get("/healthz", headers={"x-request-id": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_metrics_count_what_happened(tmp_path) -> None:
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}") as (web, _):
        web.post("/v1/models/m/sample", json={"classes": [1, 2]})
        web.post("/v1/models/m/sample", json={"classes": [99]})
        text = web.get("/metrics").text
    for line in (
        'latentc_requests_total{model="m",status="200"} 1.0',
        'latentc_requests_total{model="m",status="400"} 1.0',
        'latentc_samples_total{model="m"} 2.0',
        'latentc_queue_samples{model="m"} 0.0',
        'latentc_ready{model="m"} 1.0',
    ):
        assert line in text


def test_a_key_is_asked_for_where_it_matters(tmp_path) -> None:
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}", key="sesame") as (web, _):
        assert web.get("/").status_code == web.get("/healthz").status_code == 200
        for headers in ({}, {"authorization": "Bearer sesam"}, {"x-api-key": "Sesame"}, {"authorization": "sesame"}):
            for address in ("/v1/models", "/metrics", "/openapi.json"):
                answer = web.get(address, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (401, "E0616")
                assert answer.headers["www-authenticate"] == "Bearer"
        for headers in ({"authorization": "Bearer sesame"}, {"x-api-key": "sesame"}):
            assert web.get("/v1/models", headers=headers).status_code == 200


def test_a_full_queue_is_429_and_a_client_that_leaves_makes_room(tmp_path) -> None:
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}", queue=2) as (web, app):
        model = app.models["m"]
        gate = Gate(model.pipeline)
        gate.open.clear()
        body = {"json": {"classes": [1, 2], "seeds": 3}}

        def leave(headers) -> None:
            with pytest.raises(httpx.ReadTimeout):
                web.post("/v1/models/m/sample", **body, headers=headers, timeout=0.5)

        first = threading.Thread(target=leave, args=({},))
        first.start()
        eventually(lambda: model.scheduler.running == 2)
        second = threading.Thread(target=leave, args=({"accept": "text/event-stream"},))
        second.start()
        eventually(lambda: model.scheduler.waiting == 2)
        answer = web.post("/v1/models/m/sample", **body)
        assert (answer.status_code, answer.json()["code"]) == (429, "E0614")
        assert int(answer.headers["retry-after"]) >= 1
        first.join()
        second.join()
        eventually(lambda: model.scheduler.waiting == 0)
        gate.open.set()
        expected = model.pipeline.sample(classes=[1, 2], seeds=3)
        gate.runs = 0
        answer = web.post("/v1/models/m/sample", json={"classes": [1, 2], "seeds": 3, "format": "npz"})
        assert np.array_equal(np.load(io.BytesIO(answer.content))["samples"], expected)
        assert 'latentc_cancelled_total{model="m"} 2.0' in web.get("/metrics").text


def begun(web, *lines: str, first: bytes = b"{") -> socket.socket:
    """A connection on which these header lines and the first bytes of a body were sent."""
    sock = socket.create_connection((web.base_url.host, web.base_url.port))
    head = [f"POST /v1/models/m/sample HTTP/1.1\r\nhost: {web.base_url.host}", *lines]
    sock.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + first)
    return sock


BEGUN = {
    "body": ("content-type: application/json", "content-length: 100"),
    "form": ("content-type: multipart/form-data; boundary=x", "content-length: 100"),
    "too large": ("content-type: application/json", "content-length: 99999999"),
    "no type": ("content-length: 100",),
}


def test_clients_that_hang_up_are_not_errors_of_the_server(tmp_path, caplog) -> None:
    """While they send, wait for samples or read events: a line of the log each, status 499 or what was sent before."""
    caplog.set_level("INFO", "latentc.serve")
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}") as (web, app):
        for lines in BEGUN.values():
            begun(web, *lines, first=b"--x" if "boundary" in lines[0] else b"{").close()
        gate, scheduler = Gate(app.models["m"].pipeline), app.models["m"].scheduler
        gate.open.clear()
        for accept, state in (("image/png", "running"), ("text/event-stream", "waiting")):
            body = b'"classes": [1, 2]}'
            lines = (f"accept: {accept}", "content-type: application/json", f"content-length: {1 + len(body)}")
            with begun(web, *lines) as sock:
                sock.sendall(body)
                eventually(lambda state=state: getattr(scheduler, state) == 2)
        count = len(BEGUN) + 2
        eventually(lambda: sum(r.message == "request" and r.path.endswith("/sample") for r in caplog.records) == count)
        gate.open.set()
        text = web.get("/metrics").text
    records = [r for r in caplog.records if r.message == "request" and r.path.endswith("/sample")]
    assert sorted(r.status for r in records) == [200, 413, *[499] * 4]
    assert not [r for r in caplog.records if r.exc_info or r.levelname == "ERROR"]
    assert 'latentc_requests_total{model="m",status="499"} 4.0' in text and 'status="500"' not in text


def test_failures_of_the_engine_are_answered(tmp_path, monkeypatch) -> None:
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}") as (web, app):

        def fails(*_):
            raise RuntimeError("the secret path /root")

        monkeypatch.setattr(app.models["m"].pipeline, "run", fails)
        answer = web.post("/v1/models/m/sample", json={"classes": [1]})
        assert (answer.status_code, answer.json()["code"]) == (500, "E0607") and "secret" not in answer.text
        with web.stream("GET", "/v1/models/m/sample?classes=1&format=events") as answer:
            got = list(events(answer))
        assert [name for name, _ in got] == ["accepted", "error"] and got[1][1]["code"] == "E0607"


def test_a_model_that_cannot_run_is_not_ready(tmp_path, monkeypatch) -> None:
    app = create_app([str(tiny_bundles.host_bundle(tmp_path / "b"))])
    scheduler = app.models["tiny"].scheduler

    def fails(batch):
        raise BundleError("E0607", "no room")

    monkeypatch.setattr(scheduler.pipeline, "warm_up", fails)
    scheduler.start()
    eventually(lambda: scheduler.state == "failed")
    assert not app.ready
    with pytest.raises(HttpError) as refusal:
        scheduler.submit(None)  # type: ignore[arg-type]
    assert refusal.value.status == 500 and "no room" in refusal.value.error.message


WAVE = Output((8,), "f32", "audio", ("time",), (-1.0, 1.0), rate=8000.0)
FILM = Output((3, 2, 2), "f32", "video", ("frame", "height", "width"), (0.0, 1.0), rate=8.0)
TEXT = Output((4,), "i64", "text", ("token",), classes=3, alphabet="abc")
PLAIN = Output((2,), "f64", "array")


@pytest.mark.parametrize(
    ("output", "accept", "kind"),
    [
        (WAVE, "", "audio/wav"),
        (WAVE, "audio/x-wav", "audio/wav"),
        (WAVE, "image/*", "image/png"),
        (FILM, "*/*", "image/gif"),
        (FILM, "image/png, image/gif;q=0.5", "image/png"),
        (FILM, "image/png;q=0, image/*;q=0.1", "image/gif"),
        (TEXT, "text/html, text/*;q=0.5", "text/plain"),
        (PLAIN, "*/*", "application/x-npz"),
        (PLAIN, "application/octet-stream;q=x, application/json;q=0.2", "application/json"),
        (PLAIN, "npz", "application/x-npz"),
    ],
)
def test_the_type_of_an_answer(output: Output, accept: str, kind: str) -> None:
    assert answers.chosen_type(accept, output) == kind


@pytest.mark.parametrize(
    ("output", "starts"),
    [
        (WAVE, {"audio/wav": b"RIFF", "image/png": b"\x89PNG"}),
        (FILM, {"image/gif": b"GIF8", "image/png": b"\x89PNG"}),
        (PLAIN, {}),
    ],
)
def test_the_parts_of_a_sample(output: Output, starts: dict[str, bytes]) -> None:
    parts = answers.parts(np.zeros(output.shape, np.float32), output)
    assert {kind: base64.b64decode(text)[:4] for kind, text in parts.items()} == starts


def test_text_is_text() -> None:
    assert answers.parts(np.array([0, 1, 2, 0]), TEXT) == {"text/plain": "abca"}


WIDE = Condition("mel", "array", (4, 3), "f32")


def bomb(size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("value.npy", bytes(size))
    return file.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object))
    return file.getvalue()


def liar() -> bytes:
    """An array whose header says that it has more values than there are."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 3), }"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)


@pytest.mark.parametrize(
    ("content", "status"),
    [(bomb(50_000_000), 413), (pickled(), 400), (liar(), 400), (b"PK\x03\x04", 400), (b"\x93NUMPY", 400), (b"{", 400)],
)
def test_files_that_are_no_conditions_are_refused(content: bytes, status: int) -> None:
    with pytest.raises(HttpError) as refusal:
        value_from_bytes(content, WIDE, 4)
    assert refusal.value.status == status


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"queue": 0}, {"delay": float("nan")}, {"drain": -1}, {"key": ""}, {"key": "é"}]
)
def test_options_have_bounds(options) -> None:
    with pytest.raises(BundleError) as error:
        Options(**options)
    assert error.value.code == "E0619"


def test_only_loopback_is_private() -> None:
    loopback = [Options(host=host).loopback for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "a.example")]
    assert loopback == [True, True, True, False, False, False]


def test_names_of_models_can_be_part_of_an_address(tmp_path) -> None:
    bundle = tiny_bundles.host_bundle(tmp_path / "b")
    for names in ([f"a b={bundle}"], [f"../x={bundle}"], [str(bundle), str(bundle)]):
        with pytest.raises(BundleError) as error:
            create_app(names)
        assert error.value.code == "E0619"
