"""Executors of several workers: processes of this machine, or actors of a Ray cluster (ray_actors.py).

Every worker opens the bundle once and draws chunks; which worker draws a chunk does not matter for its samples. The
chunk of a worker that dies is drawn again by another. Few chunks are begun ahead of the oldest unfinished one, so that
the results which wait for it fit into memory.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial

from latentc.diagnostics import DiagnosticError
from latentc.samples.job import Array, Executor, Job, Worker, in_process
from latentc.samples.schedule import Schedule


def executor_of(workers: str | None) -> Executor:
    """The executor named by `--workers`: N processes, `ray` (a new cluster here, or RAY_ADDRESS), or `ray:ADDRESS`.

    None is this process. DiagnosticError E0741 for anything else.
    """
    text = workers or "1"
    name, _, address = text.partition(":")
    if name == "ray":
        from latentc.samples.ray_actors import on_ray

        return partial(on_ray, address=text if address.startswith("//") else address or None)
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        mend = "give a number of processes (4), `ray`, or `ray:ADDRESS`"
        raise DiagnosticError.of("E0741", f"`--workers {text}` was not understood", help=mend)
    return in_process if int(text) == 1 else partial(in_processes, count=int(text))


def in_processes(job: Job, chunks: Sequence[range], *, count: int) -> Iterator[tuple[range, Array]]:
    """Draws with `count` processes of this machine. BundleError of a worker; DiagnosticError E0742."""
    count = max(1, min(count, len(chunks)))
    schedule, running, lent = Schedule(chunks, count), dict[Future[Array], int](), set[int]()
    pool = _pool(job, count)
    try:
        while schedule:
            try:
                while len(lent) < count and (chunk := schedule.next()):
                    lent.add(chunk[0])
                    running[pool.submit(_draw, chunk[1])] = chunk[0]
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    array = future.result()
                    number = running.pop(future)
                    lent.remove(number)
                    yield schedule.finish(number), array
            except BrokenProcessPool as error:  # one of them died, so the pool has ended the others
                for number in sorted(lent, reverse=True):
                    schedule.lose(number, str(error))
                running.clear()
                lent.clear()
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool(job, count)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_job: Job | None = None  # of this process, if it belongs to a pool
_worker: Worker | None = None


def _pool(job: Job, count: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=spawn, initializer=_prepare, initargs=(job,))


def _prepare(job: Job) -> None:
    global _job
    _job = job


def _draw(rows: range) -> Array:
    global _worker
    if _worker is None:  # here rather than in `_prepare`, which could not report the reason
        assert _job is not None
        _worker = Worker(_job)
    return _worker(rows)
