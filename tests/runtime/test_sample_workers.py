"""Workers that draw samples: processes and Ray actors give one process's samples, also when one of them is killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundles as tiny

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.sources import Generated
from latentc.samples.job import Job, in_process, ordered
from latentc.samples.schedule import AHEAD, ATTEMPTS, Schedule
from latentc.samples.workers import executor_of
from latentc_runtime import BundleError, load
from latentc_runtime.sources import Condition

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

COUNT, CHUNK = 60, 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.host_bundle(tmp_path_factory.mktemp("workers") / "bundle")
    programs = load(folder, "cpu").manifest.programs
    classes = (Condition("class", "label", classes=10),)
    return tiny.write(folder, programs, tiny.PICTURE, ["step.onnx"], conditions=classes)


@pytest.fixture(scope="module")
def job(bundle: Path) -> Job:
    labels = np.arange(COUNT) % 10
    return Job(bundle, COUNT, seed=3, label="class", labels=labels, device="cpu", threads=1)


@pytest.fixture(scope="module")
def alone(job: Job) -> np.ndarray:
    return joined(in_process(job, job.chunks(CHUNK)))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray cluster of two CPUs, and so of two workers."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


def joined(results: Any) -> np.ndarray:
    return np.concatenate([array for _, array in ordered(results)])


def killing(results: Any, victims: Any) -> Iterator[Any]:
    """The results; after the second one, one of the processes that draw them is killed."""
    for number, result in enumerate(results):
        if number == 1:
            until = time.monotonic() + 60
            while len(found := victims()) < 2:  # the first may have drawn both before the second has started
                assert time.monotonic() < until
                time.sleep(0.05)
            os.kill(found[0], signal.SIGKILL)
        yield result


def processes(of: bytes) -> list[int]:
    """Numbers of the processes whose command line holds `of`."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if of in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:  # it has ended
            continue
    return found


def children() -> list[int]:
    import multiprocessing

    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def test_a_killed_actor_is_replaced(job: Job, alone: np.ndarray, cluster: None) -> None:
    chunks = job.chunks(CHUNK)
    results = killing(executor_of("ray")(job, chunks), lambda: processes(b"ray::_Actor"))
    assert np.array_equal(joined(results), alone)
    assert ray.is_initialized()  # a cluster that was there stays


def test_a_set_drawn_by_ray_is_that_of_one_process(bundle: Path, tmp_path: Path, cluster: None) -> None:
    asked: dict[str, Any] = {"count": 24, "chunk": 4, "device": "cpu"}
    for name, workers in (("one", None), ("ray", "ray")):
        api.sample_set(bundle, tmp_path / f"{name}.npz", "npz", "all", 1, 7, workers=workers, **asked)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "ray.npz").read_bytes()


def test_evaluate_judges_the_samples_of_one_process(bundle: Path, cluster: None) -> None:
    pipe = load(bundle, "cpu")
    parts = [range(i, i + 5) for i in range(0, 20, 5)]
    found: dict[str | None, Any] = {}
    for workers in (None, "ray"):
        source = Generated(pipe, 20, 3, executor=None if workers is None else executor_of(workers))
        found[workers] = dict(source.stream(parts))
    assert set(found["ray"]) == set(parts)
    for part in parts:
        (one, labels), (other, others) = found[None][part], found["ray"][part]
        assert np.array_equal(one.array, other.array)
        assert np.array_equal(labels, others)


def test_a_fault_of_an_actor_is_that_of_its_bundle(job: Job, tmp_path: Path, cluster: None) -> None:
    lost = Job(tmp_path / "nowhere", 4, device="cpu", threads=1)
    with pytest.raises(BundleError) as caught:
        joined(executor_of("ray")(lost, lost.chunks(2)))
    with pytest.raises(BundleError) as direct:
        joined(in_process(lost, lost.chunks(2)))
    assert (caught.value.code, caught.value.message) == (direct.value.code, direct.value.message)


def test_a_killed_process_is_replaced(job: Job, alone: np.ndarray) -> None:
    results = killing(executor_of("2")(job, job.chunks(CHUNK)), children)
    assert np.array_equal(joined(results), alone)


def test_a_fault_of_a_process_is_that_of_its_bundle(tmp_path: Path) -> None:
    lost = Job(tmp_path / "nowhere", 4, device="cpu", threads=1)
    with pytest.raises(BundleError):
        joined(executor_of("2")(lost, lost.chunks(2)))


def test_few_chunks_are_drawn_ahead() -> None:
    chunks = [range(i, i + 1) for i in range(100)]
    schedule = Schedule(chunks, 2)
    given = []
    while chunk := schedule.next():
        given.append(chunk[0])
    assert given == list(range(2 * AHEAD))
    for number in reversed(given[1:]):  # the first one lags behind
        schedule.finish(number)
    assert schedule.next() is None
    schedule.finish(0)
    assert schedule.next() == (2 * AHEAD, range(2 * AHEAD, 2 * AHEAD + 1))


def test_a_chunk_that_kills_its_workers_is_given_up() -> None:
    schedule = Schedule([range(0, 8), range(8, 16)], 1)
    for _ in range(ATTEMPTS - 1):
        assert schedule.next() == (0, range(0, 8))
        schedule.lose(0, "killed")
    assert schedule.next() == (0, range(0, 8))
    with pytest.raises(DiagnosticError) as caught:
        schedule.lose(0, "killed by signal 9")
    (found,) = caught.value.diagnostics
    assert found.code == "E0742"
    assert "samples 0 to 7" in found.message
    assert "signal 9" in str(found.help)


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "nowhere"])
def test_a_cluster_that_does_not_answer(address: str, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    text = address.format(port)
    with pytest.raises(DiagnosticError) as caught:
        joined(executor_of(text if text.startswith("ray:") else f"ray:{text}")(job, job.chunks(CHUNK)))
    assert caught.value.diagnostics[0].code == "E0741"
    assert f"no Ray cluster answers at {text}" in caught.value.diagnostics[0].message


@pytest.mark.parametrize("text", ["0", "two", "-1", "rays", "1e3", "2000"])
def test_wrong_workers(text: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        executor_of(text)
    assert caught.value.diagnostics[0].code == "E0741"


def test_trials_of_a_sweep_run_on_ray(tmp_path: Path, cluster: None) -> None:
    """Each in a process of its own, which writes why it failed; an interruption ends those that run."""
    from latentc.sweep.trials import Job as Trial
    from latentc.sweep.trials import Judging, outcome_in
    from latentc.sweep.workers import workers_of

    folders = [tmp_path / str(i) for i in range(2)]
    trials = [Trial("nowhere.yaml", (), (), str(tmp_path / "a"), str(f), Judging(), ()) for f in folders]
    with workers_of("ray", "cpu") as (count, submit):
        for future in [submit(trial.text()) for trial in trials]:
            future.result(60)
    outcomes = [outcome_in(folder) for folder in folders]
    assert count >= 1 and all(one is not None and "E0401" in one.message for one in outcomes)
    assert ray.is_initialized()


def test_an_interruption_reaches_trials_on_ray(tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentc.sweep import workers

    def patient(text: str, folder: Path) -> None:
        try:
            (tmp_path / "begun").touch()
            for _ in range(600):  # Ray interrupts between steps of Python
                time.sleep(0.1)
        except KeyboardInterrupt:
            (tmp_path / "interrupted").touch()
            raise

    monkeypatch.setattr(workers, "_task", patient)
    with pytest.raises(KeyboardInterrupt), workers.workers_of("ray", "cpu") as (_, submit):
        submit("")
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt
    assert (tmp_path / "interrupted").exists()
