"""Shared by all tests: `--bless` rewrites golden files instead of comparing with them."""

from __future__ import annotations

import compileall
import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from latentc_runtime.backends.openvino import OpenVino

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
STATES: dict[int, Any] = {}  # of the generators of test files, by identity: as they are before the first test

# Half a million small objects live for long: looking through them for cycles took a twentieth of the time.
gc.set_threshold(100_000, 20, 50)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bless", action="store_true", help="rewrite the golden files with what came out")
    parser.addoption("--fast", action="store_true", help="each test with its first parameters only, without slow ones")
    parser.addoption("--exhaustive", action="store_true", help="test every variant and pair where the suite takes some")


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the sources once for all processes that import them, also where PYTHONDONTWRITEBYTECODE is set."""
    if not hasattr(config, "workerinput"):
        for folder in ("compiler", "runtime"):
            compileall.compile_dir(ROOT / folder, quiet=2)


def pytest_collection_finish() -> None:
    """Modules and tests live until the end: collections need not look through them."""
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = set(items)
    if not config.getoption("--exhaustive"):
        chosen = {item for item in items if item.get_closest_marker("exhaustive") is None}
    if config.getoption("--fast"):
        first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        chosen &= {item for item in first.values() if item.get_closest_marker("slow") is None}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test draws the same numbers, from its file's generators and torch's, whichever tests ran before it."""
    torch.manual_seed(0)
    for generator in vars(getattr(item, "module", item)).values():
        if isinstance(generator, np.random.Generator):
            first = STATES.setdefault(id(generator), generator.bit_generator.state)
            generator.bit_generator.state = first


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor write the caches of whoever runs them, and do not load their components."""
    run = tmp_path_factory.getbasetemp()
    shared = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run  # by all workers
    os.environ["LATENTC_CACHE"] = str(shared / "latentc-cache")
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("configuration"))
    os.environ.pop("LATENTC_COMPONENTS", None)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> None:
    """What tests write need not survive a power cut."""
    os.fsync = lambda file: None


@pytest.fixture(scope="session", autouse=True)
def one_thread_of_onnxruntime() -> None:
    """Its idle threads spin, in turns with the tests of the other process."""
    original = onnxruntime.InferenceSession.__init__

    def init(self: Any, model: Any, sess_options: Any = None, *rest: Any, **options: Any) -> None:
        sess_options = sess_options or onnxruntime.SessionOptions()
        sess_options.intra_op_num_threads = sess_options.intra_op_num_threads or 1
        original(self, model, sess_options, *rest, **options)

    onnxruntime.InferenceSession.__init__ = init


@pytest.fixture(scope="session", autouse=True)
def two_threads_of_openvino() -> None:
    """More would take turns with the tests of the other process; with one, some versions cannot compile Mish."""
    original = OpenVino.__init__

    def init(self: OpenVino, device: str, threads: int | None, precision: str) -> None:
        original(self, device, threads or 2, precision)

    OpenVino.__init__ = init  # type: ignore[method-assign]


@pytest.fixture(scope="session")
def exhaustive(request: pytest.FixtureRequest) -> bool:
    """True with `--exhaustive`."""
    return bool(request.config.getoption("--exhaustive"))


@pytest.fixture(scope="session")
def some(exhaustive: bool) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """`some(variants)`: the first and the last, most often the smallest and the largest; all with `--exhaustive`."""
    return lambda variants: variants if exhaustive else [*variants[:1], *variants[1:][-1:]]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path | str, str], None]:
    """`golden(path, text)`: the file under tests/golden must hold exactly this text."""

    def check(path: Path | str, text: str) -> None:
        file = GOLDEN / path
        if request.config.getoption("--bless"):
            file.parent.mkdir(parents=True, exist_ok=True)
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                file.write_text(text, encoding="utf-8")
            return
        assert file.exists(), f"{file} is missing: run pytest --bless and look at what it writes"
        assert text == file.read_text(encoding="utf-8")

    return check
