"""The Python client: what a pipeline gives, through a server; the server's diagnostics, and servers that are none."""

from __future__ import annotations

import re
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from served import NAMES, Gate, eventually, mel_bundle, served, tiny_bundles, two_step_counts

import latentc_runtime
from latentc_runtime import BundleError
from latentc_runtime.client import Client, ServerError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    host, tokens = two_step_counts(folder / "host"), tiny_bundles.token_bundle(folder / "tokens")
    bundles = [f"host={host}", f"tokens={tokens}", f"mel={mel_bundle(folder / 'mel')}"]
    with served(*bundles, max_samples=16, max_body=200_000, key="sesame") as (web, app):
        yield str(web.base_url), app


def noise_of(app, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (count, *tiny_bundles.SHAPE)
    return {
        "out": rng.standard_normal(shape).astype(np.float32),
        "n": rng.standard_normal((3, *shape)).astype(np.float32),
    }


def test_a_client_gives_what_the_pipeline_gives(server) -> None:
    address, app = server
    client, pipe = Client(address, "host", key="sesame"), app.models["host"].pipeline
    assert client.ready() and [model["name"] for model in client.models()] == ["host", "tokens", "mel"]
    for asked in (
        {"classes": [3]},
        {"classes": ["Quattuor", 4, "zero"], "seeds": 1, "steps": 2},
        {"classes": "four,4,0-2", "seeds": np.arange(5, dtype=np.uint64), "guidance": np.float32(2.5)},
        {"classes": np.array([1, 2]), "settings": {"guidance": [1.0, 3.0]}, "seeds": [(1 << 64) - 1, 0]},
        {"classes": [1, 2], "noise": noise_of(app, 2)},
        {"classes": [1, 2], "noise": {"out": noise_of(app, 2)["out"].tolist()}},
        {"conditions": {"class": np.array([1, 2])}},
    ):
        assert np.array_equal(client.sample(**asked), pipe.sample(**asked)), asked


def test_samples_are_files_with_what_they_were_made_from(server) -> None:
    address, app = server
    found = Client(address, "host", key="sesame").samples(["seven", 3], seeds=11, guidance=2.5)
    pictures = app.models["host"].pipeline.images(app.models["host"].pipeline.sample([7, 3], 11, guidance=2.5))
    assert [one.png for one in found] == [latentc_runtime.png(picture) for picture in pictures]
    assert [(one.index, one.seed, one.labels, one.names, one.settings) for one in found] == [
        (i, 11 + i, {"class": c}, {"class": NAMES[c]}, {"guidance": 2.5}) for i, c in enumerate((7, 3))
    ]
    with pytest.raises(BundleError, match="E0612"):
        _ = replace(found[0], content={}).png


def test_arrays_are_sent_as_files(server) -> None:
    address, app = server
    client, mel = Client(address, "mel", key="sesame"), np.arange(4, dtype=np.float32).reshape(1, 2, 2)
    expected = app.models["mel"].pipeline.sample(conditions={"mel": mel}, seeds=[5])
    for value in (mel, mel.astype(np.float64), np.asfortranarray(mel), mel.tolist()):
        assert np.array_equal(client.sample(conditions={"mel": value}, seeds=[5]), expected)


REFUSED = {
    "class": ({"classes": ["tree"]}, 400, "E0608"),
    "condition": ({"classes": [1], "conditions": {"mel": np.zeros(3)}}, 400, "E0608"),
    "mask": ({"classes": [1], "conditions": {"class": {"file": np.zeros(3)}}}, 400, "E0608"),
    "steps": ({"classes": [1], "steps": 77}, 400, "E0609"),
    "noise": ({"classes": [1], "noise": {"out": np.zeros((2, 1, 2, 2), np.float32)}}, 400, "E0610"),
    "noise of integers": ({"classes": [1], "noise": {"out": np.zeros((1, *tiny_bundles.SHAPE), int)}}, 400, "E0610"),
    "unknown noise": ({"classes": [1], "noise": {"z": np.zeros(3, np.float32)}}, 400, "E0610"),
    "body": ({"classes": [1], "noise": {"out": np.zeros(300_000, np.float32)}}, 413, "E0615"),
    "infinite": ({"classes": [1], "guidance": float("inf")}, 400, "E0618"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_are_the_servers_own(server, case: str) -> None:
    asked, status, code = REFUSED[case]
    with pytest.raises(ServerError) as refusal:
        Client(server[0], "host", key="sesame").sample(**asked)
    error = refusal.value
    assert (error.status, error.code) == (status, code) and error.message and error.help and error.request_id


MISTAKEN = {
    "ragged": {"noise": {"x": [[1.0], [1.0, 2.0]]}},
    "objects": {"conditions": {"mel": np.array([object()])}},
    "a set": {"classes": {1, 2}},
    "no mapping": {"noise": np.zeros(3)},
}


@pytest.mark.parametrize("case", MISTAKEN)
def test_what_cannot_be_sent_is_refused_before(server, case: str) -> None:
    with pytest.raises(BundleError, match="E0608"):
        Client(server[0], "host", key="sesame").sample(**MISTAKEN[case])


def test_a_key_and_a_name_are_needed_where_the_server_needs_them(server, monkeypatch) -> None:
    monkeypatch.delenv("LATENTC_API_KEY", raising=False)
    with pytest.raises(ServerError, match="E0616"):
        Client(server[0], "host").sample([1])
    monkeypatch.setenv("LATENTC_API_KEY", "sesame")
    assert len(Client(server[0], "host").sample([1])) == 1
    with pytest.raises(BundleError, match=r"E0617.*host, tokens, mel"):
        Client(server[0]).sample([1])
    with pytest.raises(ServerError, match="E0617"):
        Client(server[0], "a/b").sample([1])


def test_the_documented_client_runs(tmp_path, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall("```python\n(.*?)```", page, re.DOTALL) if "Client(" in block)
    with served(f"digits-dit={tiny_bundles.host_bundle(tmp_path / 'b')}") as (web, _):
        exec(code.replace("http://127.0.0.1:8000", str(web.base_url)), found := {})
    assert found["array"].shape == (3, *tiny_bundles.SHAPE) and len(capsys.readouterr().out.splitlines()) == 10


class Stranger(BaseHTTPRequestHandler):
    """A server of something else: a redirect, a page, an error of a proxy."""

    def do_GET(self) -> None:
        status = int(self.path.split("/")[1])
        self.send_response(status)
        self.send_header("location", "/200/")
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_: object) -> None:
        pass


def test_strangers_and_silence_are_diagnostics() -> None:
    strangers = HTTPServer(("127.0.0.1", 0), Stranger)
    thread = threading.Thread(target=strangers.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        for status in (200, 302, 502):
            client = Client(f"http://127.0.0.1:{strangers.server_port}/{status}")
            with pytest.raises(BundleError, match=r"E0621.*no server of latentc"):
                client.models()
            assert not client.ready()
    finally:
        strangers.shutdown()
        thread.join()
        strangers.server_close()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(BundleError, match="E0621"):
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1).models()
    for address in (f"http://127.0.0.1:{strangers.server_port}", "127.0.0.1:8000", "http://[", "http://a b"):
        with pytest.raises(BundleError, match="E0621"):
            Client(address).models()


def test_requests_with_noise_share_batches_with_their_like(tmp_path) -> None:
    with served(f"m={tiny_bundles.host_bundle(tmp_path / 'b')}", batch=4) as (web, app):
        pipe, results, client = app.models["m"].pipeline, {}, Client(str(web.base_url))
        noises = {i: noise_of(app, 3, i) for i in (1, 2)}
        expected = {i: pipe.sample([i] * 3, noise=noise) for i, noise in noises.items()} | {3: pipe.sample([3])}
        gate = Gate(pipe)
        gate.open.clear()

        def ask(i: int) -> None:
            results[i] = client.sample([i] * 3, noise=noises[i]) if i in noises else client.sample([i])

        threads = [threading.Thread(target=ask, args=(i,)) for i in (3, 1, 2)]
        for thread, waiting in zip(threads, (0, 3, 6), strict=True):
            thread.start()
            eventually(lambda waiting=waiting: gate.runs and app.models["m"].scheduler.waiting == waiting)
        gate.open.set()
        for thread in threads:
            thread.join()
        assert gate.sizes == [1] * 3 + [4] * 3 + [2] * 3
        for i, samples in results.items():
            assert np.allclose(samples, expected[i], atol=1e-6)
