"""What a server is told when it starts, and the errors it answers with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from latentc_runtime.errors import BundleError

KEY_VARIABLE = "LATENTC_API_KEY"
"""Environment variable that holds the API key, so that no process list shows it."""


@dataclass(frozen=True)
class Options:
    """Options of a server; sizes in bytes, times in seconds.

    key: API key that requests must carry; None for none. device, threads: as of `latentc_runtime.load`.
    batch: largest number of samples in one engine call, at most the bundle's `max_batch`.
    delay: time that a request waits for others to share its engine call, while the engine is idle.
    queue: samples that may wait per model; further requests are refused with 429.
    max_samples: samples per request. max_body: size of a request's body.
    preview: least time between two intermediate pictures. drain: time for unfinished requests after a signal to stop.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = field(default=None, repr=False)
    device: str = "auto"
    threads: int | None = None
    batch: int = 16
    delay: float = 0.003
    queue: int = 256
    max_samples: int = 64
    max_body: int = 16 << 20
    preview: float = 0.15
    drain: float = 30.0

    def __post_init__(self) -> None:
        least = {
            "port": 0,
            "batch": 1,
            "delay": 0,
            "queue": 1,
            "max_samples": 1,
            "max_body": 1,
            "preview": 0,
            "drain": 0,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if not low <= value < float("inf"):  # false for nan
                message = f"`{name}` is a number from {low} on, not {value}"
                raise BundleError("E0619", message, f"leave `--{name.replace('_', '-')}` out for the default")
        if self.key is not None and not (self.key and self.key.isascii() and self.key.isprintable()):
            raise BundleError("E0619", "the API key is empty or not ASCII text", "choose a long random word")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class HttpError(Exception):
    """A request that is refused: status, diagnostic and further headers of the answer."""

    def __init__(self, status: int, error: BundleError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, error)
        self.status, self.error, self.headers = status, error, dict(headers or {})


_STATUS = {"E0607": 500, "E0612": 422}


def http_error(error: BundleError) -> HttpError:
    """The answer to a request for which the runtime raised `error`."""
    return HttpError(_STATUS.get(error.code, 400), error)


def refused(status: int, code: str, message: str, help: str | None = None, **headers: str) -> HttpError:
    """An HttpError from the parts of its diagnostic; `Retry_After` names the header Retry-After."""
    return HttpError(
        status, BundleError(code, message, help), {name.replace("_", "-"): text for name, text in headers.items()}
    )
