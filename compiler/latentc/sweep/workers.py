"""Runs trials beside each other: in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from latentc.diagnostics import DiagnosticError
from latentc.samples.ray_actors import cluster, places
from latentc.sweep.trials import run_trial

Submit = Callable[[str], "Future[None]"]  # the text of a job


@contextlib.contextmanager
def workers_of(text: str | None, device: str) -> Iterator[tuple[int, Submit]]:
    """(number of trials at once, how to start one) of `--workers`: N, `ray` or `ray:ADDRESS`; None is one.

    When the block ends with an error, trials are interrupted and waited for. DiagnosticError E0706, E0741.
    """
    name, _, address = (text or "1").partition(":")
    if name == "ray":
        with _on_ray(address or None, device) as found:
            yield found
        return
    if not name.isdecimal() or not 1 <= int(name) <= 1024 or address:
        mend = "give a number of processes (4), `ray`, or `ray:ADDRESS`"
        raise DiagnosticError.of("E0741", f"`--workers {text}` was not understood", help=mend)
    with _here(int(name), device) as submit:
        yield int(name), submit


@contextlib.contextmanager
def _here(count: int, device: str) -> Iterator[Submit]:
    slots: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for environment in environments(count, [] if device == "cpu" else gpus(), os.cpu_count() or 1):
        slots.put(environment)
    stop = threading.Event()

    def run(text: str) -> None:
        environment = slots.get()
        try:
            if not stop.is_set():
                run_trial(text, environment, stop)
        finally:
            slots.put(environment)

    with ThreadPoolExecutor(count) as pool:
        try:
            yield lambda text: pool.submit(run, text)
        except BaseException:
            stop.set()
            raise


def environments(count: int, devices: list[str], cores: int) -> list[dict[str, str]]:
    """Environment variables of each of `count` workers: its GPU, and its share of the cores unless the user set one."""
    threads = {} if count == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // count))}
    if count == 1 or not devices:
        return [threads] * count
    return [{**threads, "CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} for i in range(count)]


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


@contextlib.contextmanager
def _on_ray(address: str | None, device: str) -> Iterator[tuple[int, Submit]]:
    with cluster(address) as ray:
        count, needs = places(ray, device)
        task = ray.remote(max_retries=0, **needs)(_task)
        here, begun = Path.cwd(), []

        def submit(text: str) -> Future[None]:
            begun.append(task.remote(text, here))
            future: Future[None] = begun[-1].future()
            return future

        try:
            yield count, submit
        except BaseException:
            for running in begun:
                ray.cancel(running)  # raises KeyboardInterrupt in it, which `run_trial` passes on
            ray.wait(begun, num_returns=len(begun))
            raise


def _task(text: str, folder: Path) -> None:
    os.chdir(folder)  # paths of `--set` are relative to it
    run_trial(text, {})
