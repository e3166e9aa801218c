"""One thread per model that samples for all requests: those of one program share its engine calls.

A sample depends only on its own seed, conditions and settings, so rows of different requests may stand in one batch.
Requests wait in a queue. Each batch takes rows of the requests at its front that want the same program and number of
steps; a request with rows left goes to the back, so that a large one does not hold up small ones.

    submit ─▶ waiting [job job job] ─▶ _next_batch: [(job, rows) …] ─▶ Pipeline.run ─▶ events to each job's listener
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from latentc_runtime.backends import Array
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import ProgramEntry
from latentc_runtime.pipeline import Pipeline
from latentc_runtime.request import Request, joined_requests
from latentc_runtime.serve.options import Options, refused

_log = logging.getLogger("latentc.serve")

PROGRESS = 0.1  # seconds between two progress reports


@dataclass(frozen=True)
class Progress:
    """`done` of `total` samples; parts of a sample count."""

    done: float
    total: int


@dataclass(frozen=True)
class Preview:
    """Outputs of the rows from `start` on as they are now, before the last step."""

    start: int
    outputs: dict[str, Array]


@dataclass(frozen=True)
class Made:
    """Finished outputs of the rows from `start` on."""

    start: int
    outputs: dict[str, Array]


@dataclass(frozen=True)
class Failed:
    """The request ended with this error."""

    error: BundleError


Event = Progress | Preview | Made | Failed


@dataclass(eq=False)
class Job:
    """A request on its way. `listener` gets its events, in the scheduler's thread; with `previews` also pictures.

    `cancelled` may be set at any time; `Scheduler.cancel` also frees its place in the queue.
    """

    request: Request
    listener: Callable[[Event], None]
    previews: bool = False
    cancelled: bool = False
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    taken: int = 0  # rows already given to the engine
    made: int = 0

    @property
    def left(self) -> int:
        """Rows that still wait."""
        return len(self.request) - self.taken

    @property
    def key(self) -> tuple[object, ...]:
        """Jobs of one key can share an engine call: program, steps, inputs whose noise is given, rows per sample."""
        one = self.request
        return one.entry.name, one.entry.steps, frozenset(one.noise), one.rows, one.sides


Piece = tuple[Job, int, int]  # rows start to stop - 1 of a job


class _Abandoned(Exception):
    """Nobody waits for this batch any more."""


class Scheduler:
    """The queue and the thread of one model. `observe(samples, seconds)` is called after each engine call.

    state: "warming up", "ready", "failed" (then `error` says why) or "closed".
    """

    def __init__(
        self, name: str, pipeline: Pipeline, options: Options, observe: Callable[[int, float], None] = lambda *_: None
    ) -> None:
        self.name, self.pipeline, self.options, self.observe = name, pipeline, options, observe
        self.state, self.error = "warming up", ""
        self.waiting = 0  # samples in the queue
        self.running = 0  # samples in the engine
        self.seconds_per_sample = 0.0  # smoothed
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"sample {name}", daemon=True)

    def waiting_samples(self) -> int:
        """Samples in the queue."""
        return self.waiting

    def is_ready(self) -> bool:
        """True if jobs are served."""
        return self.state == "ready"

    def start(self) -> None:
        """Warm up, then serve what is submitted."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. HttpError 429 if the queue is full, 503 if the server stops, 500 if the model is broken."""
        with self._changed:
            if self.state == "failed":
                raise refused(500, "E0607", f"the model `{self.name}` cannot run: {self.error}", "see the server's log")
            if self._closing:
                raise refused(503, "E0614", "the server is shutting down", "ask another one", Retry_After="5")
            self._check_room(len(job.request))
            self._jobs.append(job)
            self.waiting += len(job.request)
            self._changed.notify_all()

    def check_room(self) -> None:
        """HttpError 429 if not even one more sample may wait."""
        with self._changed:
            self._check_room(1)

    def _check_room(self, count: int) -> None:
        most = self.options.queue
        if self.waiting and self.waiting + count > most:  # an empty queue accepts any request, or retries would fail
            after = self.retry_after()
            raise refused(
                429,
                "E0614",
                f"the queue of `{self.name}` is full: {self.waiting} samples are waiting, and at most {most} may wait",
                f"try again in {after} s, or start the server with a larger `--queue`",
                Retry_After=str(after),
            )

    def retry_after(self) -> int:
        """Seconds until the queue is about half empty, 1 to 60."""
        return int(np.clip(np.ceil(self.seconds_per_sample * (self.waiting + self.running) / 2), 1, 60))

    def cancel(self, job: Job) -> None:
        """Give up a job: its waiting rows leave the queue, and a batch that nobody else waits for ends."""
        with self._changed:
            job.cancelled = True
            self._drop(job)

    def close(self) -> None:
        """Take no further jobs, finish those that wait, and end the thread. Returns at once; see `join`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout)

    # ---- in the thread

    def _run(self) -> None:
        try:
            self.pipeline.warm_up(1)
            if self.pipeline.backend.compiles_per_batch:
                self.pipeline.warm_up(self._limit(self.pipeline.program()))
            self.state = "ready"
            _log.info("model ready", extra={"model": self.name, "device": self.pipeline.device})
            while batch := self._next_batch():
                self._sample(batch)
            self.state = "closed"
        except Exception as error:
            known = error if isinstance(error, BundleError) else _unknown(error)
            with self._changed:
                self.state, self.error = "failed", known.message
                for job in list(self._jobs):
                    self._fail(job, known)
            _log.exception("model failed", extra={"model": self.name})

    def _next_batch(self) -> list[Piece]:
        """Rows that share the next engine call; waits for them. Empty if the scheduler is closed and idle."""
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return []
                self._changed.wait()
                self._wait_for_company()  # all of which may leave in the meantime
            pieces: list[Piece] = []
            key, room = self._jobs[0].key, self._size()
            for job in [job for job in self._jobs if job.key == key]:
                if not room:
                    break
                start = job.taken
                job.taken = min(len(job.request), start + room)
                job.started = job.started or time.monotonic()
                room -= job.taken - start
                pieces.append((job, start, job.taken))
                self._jobs.remove(job)
                if job.left:
                    self._jobs.append(job)
            self.running = sum(stop - start for _, start, stop in pieces)
            self.waiting -= self.running
            return pieces

    def _wait_for_company(self) -> None:
        """Let the oldest job wait at most `delay` after its submission until a batch is full."""
        while self._jobs and not self._closing:
            key, until = self._jobs[0].key, self._jobs[0].submitted + self.options.delay
            rows = sum(job.left for job in self._jobs if job.key == key)
            wait = until - time.monotonic()
            if rows >= self._limit(self._jobs[0].request.entry) or wait <= 0:
                return
            self._changed.wait(wait)

    def _limit(self, entry: ProgramEntry) -> int:
        """Largest number of samples in one engine call."""
        return min(self.options.batch, entry.max_batch or self.options.batch)

    def _size(self) -> int:
        """Rows that the next engine call may take.

        A backend that compiles for each batch size runs only two of them: one sample, or a full batch, which is filled
        up by repeating a row if more than half of it is taken.
        """
        limit = self._limit(self._jobs[0].request.entry)
        rows = sum(job.left for job in self._jobs if job.key == self._jobs[0].key)
        if self.pipeline.backend.compiles_per_batch and 2 * rows <= limit:
            return 1
        return limit

    def _sample(self, pieces: list[Piece]) -> None:
        entry = pieces[0][0].request.entry
        request = joined_requests([job.request.part(start, stop) for job, start, stop in pieces])
        if self.pipeline.backend.compiles_per_batch and 1 < len(request) < (limit := self._limit(entry)):
            request = joined_requests([request, *[request.part(0, 1)] * (limit - len(request))])
        begin = time.monotonic()
        watcher = _Watcher(pieces, self.options.preview)
        watched = watcher.watch if entry.form == "host" and any(job.previews for job, _, _ in pieces) else None
        try:
            outputs = self.pipeline.run(request, None, watcher.progress, watched)
        except _Abandoned:
            outputs = None
        except Exception as error:
            _log.exception("engine call failed", extra={"model": self.name, "samples": len(request)})
            known = error if isinstance(error, BundleError) else _unknown(error)
            for job, _, _ in pieces:
                self._fail(job, known)
            outputs = None
        else:
            seconds = time.monotonic() - begin
            rate = seconds / self.running
            self.seconds_per_sample += (rate - self.seconds_per_sample) * (0.2 if self.seconds_per_sample else 1.0)
            self.observe(self.running, seconds)
        self.running = 0
        if outputs is not None:
            for job, start, rows in watcher.rows():
                job.made += rows.stop - rows.start
                job.listener(Made(start, {name: array[rows].copy() for name, array in outputs.items()}))

    def _fail(self, job: Job, error: BundleError) -> None:
        with self._changed:
            job.cancelled = True
            self._drop(job)
        job.listener(Failed(error))

    def _drop(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self.waiting -= job.left
            self._changed.notify_all()


def _unknown(error: Exception) -> BundleError:
    if isinstance(error, MemoryError):
        return BundleError("E0607", "not enough memory for this batch", "start the server with a smaller `--batch`")
    return BundleError("E0607", f"the engine call failed: {type(error).__name__}", "see the server's log")


class _Watcher:
    """Callbacks of one batch: reports to its jobs, and ends the run once nobody waits for it."""

    def __init__(self, pieces: list[Piece], interval: float) -> None:
        self.pieces, self.interval = pieces, interval
        self.reported = self.seen = time.monotonic()
        self.broken = False

    def rows(self) -> Iterator[tuple[Job, int, slice]]:
        """Each job that still wants its rows, with the first of them and where they are in the batch."""
        at = 0
        for job, start, stop in self.pieces:
            if not job.cancelled:
                yield job, start, slice(at, at + stop - start)
            at += stop - start

    def progress(self, done: int, total: int) -> None:
        if all(job.cancelled for job, _, _ in self.pieces):
            raise _Abandoned
        now = time.monotonic()
        if now - self.reported < PROGRESS or done == total:
            return
        self.reported = now
        for job, _, rows in self.rows():
            job.listener(Progress(job.made + (rows.stop - rows.start) * done / total, len(job.request)))

    def watch(self, start: int, so_far: Callable[[], dict[str, Array]]) -> None:
        now = time.monotonic()
        if self.broken or now - self.seen < self.interval:
            return
        wanted = [(job, first, rows) for job, first, rows in self.rows() if job.previews]
        if not wanted:
            return
        try:
            outputs = so_far()
        except BundleError:  # a decoder that cannot read unfinished tokens
            self.broken = True
            return
        for job, first, rows in wanted:
            job.listener(Preview(first, {name: array[rows].copy() for name, array in outputs.items()}))
        self.seen = time.monotonic()
