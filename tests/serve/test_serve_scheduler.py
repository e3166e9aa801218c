"""The queue of a model: what shares an engine call, in which order, and what happens to those who leave."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from served import Gate, eventually, two_step_counts

import latentc_runtime
from latentc_runtime import BundleError
from latentc_runtime.request import check_request
from latentc_runtime.serve.options import HttpError, Options
from latentc_runtime.serve.scheduler import Failed, Job, Made, Preview, Scheduler


class Bench:
    """A scheduler whose engine can be held up, and the jobs given to it."""

    def __init__(self, folder, **options) -> None:
        self.pipeline = latentc_runtime.load(folder, "cpu")
        self.calls: list[int] = []
        self.scheduler = Scheduler("m", self.pipeline, Options(**options), lambda n, s: self.calls.append(n))
        self.scheduler.start()
        eventually(self.scheduler.is_ready)
        self.gate = Gate(self.pipeline)

    def job(self, classes, seeds, *, guidance=4.0, steps=None, previews=False) -> Job:
        manifest = self.pipeline.manifest
        entry = self.pipeline.program(None, steps)
        request = check_request(manifest, entry, classes, seeds, settings={"guidance": guidance})
        got: list = []
        job = Job(request, got.append, previews)
        job.got = got  # type: ignore[attr-defined]
        return job

    def submit(self, *args, **options) -> Job:
        job = self.job(*args, **options)
        self.scheduler.submit(job)
        return job

    def hold(self) -> Job:
        """Occupy the engine with a job of one sample."""
        self.gate.open.clear()
        runs = self.gate.runs
        job = self.submit([0], 0)
        eventually(lambda: self.gate.runs > runs)
        return job


@pytest.fixture
def bench(tmp_path):
    made: list[Bench] = []

    def make(**options) -> Bench:
        made.append(Bench(two_step_counts(tmp_path / f"b{len(made)}"), **options))
        return made[-1]

    yield make
    for one in made:
        one.gate.open.set()
        one.scheduler.close()
        one.scheduler.join(10)
        assert one.scheduler.state == "closed"


def result(job: Job) -> np.ndarray:
    """All rows of a finished job, which came in any number of pieces."""
    eventually(lambda: sum(len(e.outputs["samples"]) for e in job.got if isinstance(e, Made)) == len(job.request))
    parts = sorted((e for e in job.got if isinstance(e, Made)), key=lambda e: e.start)
    return np.concatenate([part.outputs["samples"] for part in parts])


def test_requests_share_a_call_and_get_what_direct_sampling_gives(bench) -> None:
    b = bench()
    b.hold()
    asked = [([3], 7, 1.0), ([1, 2], 40, 4.0), ([9], (1 << 64) - 1, -2.5)]
    jobs = [b.submit(classes, seeds, guidance=guidance) for classes, seeds, guidance in asked]
    b.gate.open.set()
    for job, (classes, seeds, guidance) in zip(jobs, asked, strict=True):
        assert np.array_equal(result(job), b.pipeline.sample(classes, seeds, guidance=guidance))
    assert b.calls == [1, 4]


def test_step_counts_do_not_mix(bench) -> None:
    b = bench()
    b.hold()
    jobs = [b.submit([i], i, steps=steps) for i, steps in enumerate((3, 2, 3, 2))]
    b.gate.open.set()
    for i, job in enumerate(jobs):
        assert np.array_equal(result(job), b.pipeline.sample([i], i, steps=(3, 2, 3, 2)[i]))
    assert b.calls == [1, 2, 2]


def test_a_small_request_passes_a_large_one(bench) -> None:
    b = bench(batch=4)
    b.hold()
    large, small = b.submit([1] * 12, 0), b.submit([2], 5)
    b.gate.open.set()
    assert np.array_equal(result(small), b.pipeline.sample([2], 5))
    assert np.array_equal(result(large), b.pipeline.sample([1] * 12, 0))
    assert b.calls == [1, 4, 4, 4, 1]  # the third call took the small one


def test_idle_engines_wait_for_company(bench) -> None:
    b = bench(delay=0.5)
    threads = [threading.Thread(target=b.submit, args=([i], i)) for i in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: sum(b.calls) == 4)
    assert b.calls == [4]


def test_a_full_queue_refuses_and_says_when_to_return(bench) -> None:
    b = bench(queue=3)
    b.hold()
    waiting = b.submit([1, 2], 0)
    with pytest.raises(HttpError) as refusal:
        b.submit([1, 2], 0)
    assert (refusal.value.status, refusal.value.error.code) == (429, "E0614")
    assert 1 <= int(refusal.value.headers["Retry-After"]) <= 60
    b.submit([3], 0)  # which still fits
    b.scheduler.cancel(waiting)
    b.submit([1, 2], 0)  # into its place
    assert b.scheduler.waiting == 3


def test_a_request_larger_than_the_queue_is_served_when_nobody_waits(bench) -> None:
    """Otherwise no retry would ever succeed."""
    b = bench(queue=2)
    b.hold()
    large = b.submit([1] * 5, 0)
    with pytest.raises(HttpError):
        b.submit([1], 0)
    b.gate.open.set()
    result(large)


def test_the_engine_stops_for_those_who_left(bench) -> None:
    b = bench()
    job = b.hold()
    b.scheduler.cancel(job)
    b.gate.open.set()
    assert np.array_equal(result(b.submit([4], 4)), b.pipeline.sample([4], 4))
    assert b.gate.sizes[:4] == [1, 1, 1, 1]
    assert b.gate.runs == 1 + 3 + 3  # one step of the job that was cancelled
    assert job.got == [] and b.calls == [1]


def test_those_who_stay_get_their_samples(bench) -> None:
    b = bench()
    b.hold()
    leaving, staying = b.submit([1, 1], 1), b.submit([2], 2)
    runs = b.gate.runs
    b.gate.open.set()
    eventually(lambda: b.gate.runs > runs)
    b.scheduler.cancel(leaving)
    assert np.array_equal(result(staying), b.pipeline.sample([2], 2))


def test_a_failing_call_ends_its_requests_alone(bench, monkeypatch) -> None:
    b = bench()
    b.hold()
    bad, run = b.submit([1], 1), b.pipeline.run

    def fails(request, *rest):
        if 1 in request.given.seeds:
            raise BundleError("E0607", "the engine failed")
        return run(request, *rest)

    monkeypatch.setattr(b.pipeline, "run", fails)
    b.gate.open.set()
    eventually(lambda: bad.got)
    assert isinstance(bad.got[0], Failed) and bad.got[0].error.code == "E0607"
    monkeypatch.undo()
    assert np.array_equal(result(b.submit([2], 2)), b.pipeline.sample([2], 2))


def test_engines_compiled_per_batch_run_two_sizes_alone(bench, monkeypatch) -> None:
    b = bench(batch=4)
    b.pipeline.backend.compiles_per_batch = True
    for count in (1, 2, 3, 4, 7):
        assert np.array_equal(result(b.submit([1] * count, 0)), b.pipeline.sample([1] * count, 0))
    assert b.calls == [1, 1, 1, 3, 4, 4, 3]  # a row of each call of three is computed in vain


def test_previews_are_the_states_between_the_steps(bench) -> None:
    b = bench(preview=0.0)
    b.hold()
    watched, plain = b.submit([3, 4], 8, previews=True), b.submit([5], 9)
    b.gate.open.set()
    final = result(watched)
    seen = [event.outputs["samples"] for event in watched.got if isinstance(event, Preview)]
    assert [array.shape for array in seen] == [(2, 1, 2, 2)] * 2  # of three steps
    two = b.pipeline.sample([3, 4], 8, steps=2)
    assert np.array_equal(seen[1], two)  # the first two steps are those of the shorter program
    assert not np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[1], final)
    result(plain)
    assert not any(isinstance(event, Preview) for event in plain.got)


def test_closing_finishes_what_waits(bench) -> None:
    b = bench()
    b.hold()
    job = b.submit([6], 6)
    b.scheduler.close()
    with pytest.raises(HttpError) as refusal:
        b.submit([1], 1)
    assert refusal.value.status == 503
    b.gate.open.set()
    assert np.array_equal(result(job), b.pipeline.sample([6], 6))
    b.scheduler.join(10)
    assert b.scheduler.state == "closed"
