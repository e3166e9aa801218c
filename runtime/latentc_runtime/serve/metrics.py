"""Metrics for Prometheus: requests, queues, batches and memory. Each server has a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_TIMES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server; label `model` is the bundle's name there."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        ProcessCollector(registry=r)
        self.requests = Counter("latentc_requests", "Sampling requests by status", ("model", "status"), registry=r)
        self.seconds = Histogram(
            "latentc_request_seconds", "Time of a sampling request", ("model",), buckets=_TIMES, registry=r
        )
        self.queued = Histogram(
            "latentc_queue_seconds", "Time of a request in the queue", ("model",), buckets=_TIMES, registry=r
        )
        self.samples = Counter("latentc_samples", "Finished samples", ("model",), registry=r)
        self.batch = Histogram(
            "latentc_batch_samples", "Samples per engine call", ("model",), buckets=_SIZES, registry=r
        )
        self.engine = Counter("latentc_engine_seconds", "Time of engine calls", ("model",), registry=r)
        self.cancelled = Counter("latentc_cancelled", "Requests whose client left", ("model",), registry=r)
        self._waiting = Gauge("latentc_queue_samples", "Samples in the queue", ("model",), registry=r)
        self._ready = Gauge("latentc_ready", "1 if the model serves requests", ("model",), registry=r)

    def add_model(self, model: str, waiting: Callable[[], float], ready: Callable[[], float]) -> None:
        """Read the length of a model's queue and whether it is ready from these functions."""
        self._waiting.labels(model).set_function(waiting)
        self._ready.labels(model).set_function(ready)

    def observer(self, model: str) -> Callable[[int, float], None]:
        """Called by a scheduler after each engine call, with its number of samples and its time."""
        samples, engine = self.samples.labels(model), self.engine.labels(model)
        batch = self.batch.labels(model)

        def observe(count: int, seconds: float) -> None:
            samples.inc(count)
            batch.observe(count)
            engine.inc(seconds)

        return observe

    def text(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
