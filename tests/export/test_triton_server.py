"""A sampler's repository in a real Triton server: that of the wheel nvidia-pytriton, with its Python backend, on a CPU.

Its Python backend is built for numpy 1 and reads other arrays wrongly, so it has an environment of its own: `make
triton` makes .venv/triton; LATENTC_TRITON names another.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from test_bundle import SYSTEMS, lowered_of, make, stored_weights
from tritonclient.utils import np_to_triton_dtype

import latentc_runtime
from latentc import api

HOME = Path(os.environ.get("LATENTC_TRITON", Path(sys.prefix) / "triton"))
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = HOME / "lib" / f"python{VERSION}" / "site-packages"
WHEEL = SITE / "pytriton" / "tritonserver"
LIBRARY = Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "none")
SHARED = LIBRARY.suffix != ".a" and (LIBRARY.is_file() or find_library(f"python{VERSION}") is not None)
pytestmark = [
    pytest.mark.skipif(not WHEEL.exists(), reason="needs Triton: make triton"),
    pytest.mark.skipif(not SHARED, reason="needs a Python with a shared library, which Triton's backend embeds"),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Server:
    """A process that serves a repository to 127.0.0.1, with the Python of the environment `home`."""

    def __init__(self, repository: Path, folder: Path, home: Path = HOME) -> None:
        backend = folder / "backends" / "python"
        shutil.copytree(WHEEL / "backends" / "python", backend)
        shutil.copy(WHEEL / "python_backend_stubs" / VERSION / "triton_python_backend_stub", backend)
        port = free_port()
        self.log = folder / "log"
        # The backend's interpreter is the first on the path; it reads neither PYTHONPATH nor PYTHONHOME.
        libraries = f"{SITE / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
        env = {**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "LD_LIBRARY_PATH": libraries}
        env["OMP_NUM_THREADS"] = "1"
        line = [WHEEL / "bin" / "tritonserver", "--model-repository", repository]
        line += ["--backend-directory", backend.parent, "--grpc-address", "127.0.0.1", "--grpc-port", str(port)]
        line += ["--allow-http", "false", "--allow-metrics", "false"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(list(map(str, line)), env=env, stdout=log, stderr=log)
        self.client = triton.InferenceServerClient(f"127.0.0.1:{port}")

    def until_ready(self) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if self.client.is_server_ready():
                    return
            except triton.InferenceServerException:
                pass
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def ask(self, classes: list[int], seeds: list[int], guidance: list[float]) -> triton.InferResult:
        columns = (("classes", classes, np.int64), ("seeds", seeds, np.uint64), ("guidance", guidance, np.float32))
        inputs = []
        for name, values, dtype in columns:
            array = np.array(values, dtype)[:, None]
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(dtype))
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        return self.client.infer("digits", inputs)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(repository, bundle) of a DDPM sampler, which takes noise at each step."""
    folder = tmp_path_factory.mktemp("bundle")
    spec, lowered = lowered_of(*SYSTEMS["ddpm"])
    make(lowered, spec, stored_weights(lowered, folder), folder / "b", form="loop", max_batch=8)
    api.deploy_triton(folder / "b", folder / "repository", "sampler", "digits", delay=20_000, device="cpu")
    return folder / "repository", folder / "b"


@pytest.fixture(scope="module")
def server(repository: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(repository[0], tmp_path_factory.mktemp("server"))
    try:
        running.until_ready()
        yield running
    finally:
        running.stop()


def test_requests_get_what_the_runtime_gives(server: Server, repository: tuple[Path, Path]) -> None:
    """Several at once, which the server batches."""
    pipe = latentc_runtime.load(repository[1], "cpu")
    asked = [([3, 7], [10, (1 << 64) - 1], [2.0, 4.0]), ([1], [5], [0.0]), ([0, 9, 4], [1, 2, 3], [1.5, 1.5, 8.0])]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda one: server.ask(*one), asked))
    for (classes, seeds, guidance), answer in zip(asked, answers, strict=True):
        expected = pipe.sample(classes, seeds, guidance=guidance)
        np.testing.assert_allclose(answer.as_numpy("samples"), expected, atol=1e-4)
        pictures = answer.as_numpy("images").astype(int)
        assert pictures.shape == (len(classes), 8, 8, 1)
        assert np.abs(pictures - pipe.images(expected)).max() <= 1


def test_a_wrong_request_is_refused_with_our_diagnostic(server: Server) -> None:
    with pytest.raises(triton.InferenceServerException, match=r"error\[E0608\]: no class 31") as refusal:
        server.ask([31], [0], [1.0])
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_python_that_does_not_fit_the_server_is_named(repository: tuple[Path, Path], tmp_path: Path) -> None:
    """This environment's numpy 2 in a backend for numpy 1: without a check, every output would be empty."""
    running = Server(repository[0], tmp_path, Path(sys.prefix))
    try:
        with pytest.raises(
            AssertionError, match=r"error\[E0606\]: this server's Python backend was not built for numpy 2"
        ):
            running.until_ready()
    finally:
        running.stop()
