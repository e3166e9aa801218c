"""An executor on a Ray cluster: actors, one per GPU or per node, hold the pipeline; chunks are their tasks."""

from __future__ import annotations

import contextlib
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed
from latentc.samples.job import Array, Job, Worker
from latentc.samples.schedule import Schedule

STORE = 256 << 20  # bytes of the object store of a cluster started here


def on_ray(job: Job, chunks: Sequence[range], *, address: str | None = None) -> Iterator[tuple[range, Array]]:
    """Draws with the actors of a cluster: the one at `address`, or of RAY_ADDRESS, or a new one of this machine.

    The bundle has the same path on every node. An actor that dies is replaced, and its chunk drawn again. Raises
    BundleError of an actor; DiagnosticError: E0706 without Ray, E0741 for a cluster that cannot be reached, E0742.
    """
    with cluster(address) as ray:
        yield from _drawn(ray, job, chunks)


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`, or of RAY_ADDRESS, or to a new one of this machine until the end.

    A connection that is there stays. DiagnosticError E0706, E0741.
    """
    ray = needed("ray", "`--workers ray`", 'pip install "latentc[ray]"')
    ours = not ray.is_initialized()
    _connect(ray, address or os.environ.get("RAY_ADDRESS"))
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    if ray.is_initialized():
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if address is None:
                ray.init("local", include_dashboard=False, object_store_memory=STORE, **quiet)
            else:
                _knock(address)
                ray.init(address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            message = f"no Ray cluster answers at {address or 'this machine'}: {error}"
            mend = "start one with `ray start --head`, or name its address: --workers ray:HOST:6379"
            raise DiagnosticError.of("E0741", message, help=mend) from None


def _knock(address: str) -> None:
    """OSError or ValueError if nothing listens at `HOST:PORT`: Ray itself would try for many minutes."""
    if address not in ("auto", "local"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def places(ray: Any, device: str, threads: int | None = None) -> tuple[int, dict[str, float]]:
    """(number of workers, what each reserves): a GPU each if there are any and `device` is not cpu, else CPUs.

    These are as many as `threads`, or as the smallest node has.
    """
    have = ray.cluster_resources()
    if device != "cpu" and have.get("GPU", 0) >= 1:
        return int(have["GPU"]), {"num_gpus": 1, "num_cpus": 1}
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    each = threads or int(min((cores for cores in nodes if cores >= 1), default=1))
    return max(1, sum(int(cores // each) for cores in nodes)), {"num_cpus": each}


def _drawn(ray: Any, job: Job, chunks: Sequence[range]) -> Iterator[tuple[range, Array]]:
    count, needs = places(ray, job.device, job.threads)
    count = min(count, len(chunks))
    actor = ray.remote(max_restarts=0, **needs)(_Actor)
    shared = ray.put(replace(job, bundle=job.bundle.absolute()))  # actors may run in another folder
    schedule = Schedule(chunks, count)
    actors: set[Any] = set()
    idle: list[Any] = []
    running: dict[Any, tuple[Any, int | None]] = {}  # task -> its actor and its chunk number

    def hire() -> None:
        new = actor.remote(shared)
        actors.add(new)
        running[new.ready.remote()] = (new, None)  # chunks go to actors that are ready

    try:
        for _ in range(count):
            hire()
        while schedule:
            while idle and (chunk := schedule.next()):
                worker = idle.pop()
                running[worker.draw.remote(chunk[1])] = (worker, chunk[0])
            (done,), _ = ray.wait(list(running))
            worker, number = running.pop(done)
            try:
                array = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:  # it or its node died
                actors.discard(worker)
                schedule.lose(number, str(error).strip().partition("\n")[0])
                hire()
                continue
            idle.append(worker)
            if number is not None:
                yield schedule.finish(number), np.array(array)  # a copy, so that the object store can free it
    finally:
        for worker in actors:
            ray.kill(worker)


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def ready(self) -> None:
        """Opens the pipeline; here and not in the constructor, whose errors Ray does not pass on."""
        self._worker = Worker(self._job)

    def draw(self, rows: range) -> Array:
        return self._worker(rows)
