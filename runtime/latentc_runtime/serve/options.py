"""Options of a server, and the errors it responds with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from typing import Any

from latentc_runtime.errors import BundleError

KEY_VARIABLE = "LATENTC_API_KEY"
"""Environment variable that holds the API key, which is not shown in process lists."""


def _option(default: Any, about: str, least: float | None = None, shown: bool = True) -> Any:
    """A field of `Options`: what it is, and the least number it takes. `shown`: also where keys must not be."""
    return field(default=default, repr=shown, metadata={"about": about, "least": least})


@dataclass(frozen=True)
class Options:
    """Options of a server; sizes in bytes, times in seconds. `device` and `threads` are those of `load`.

    `batch` is at most the bundle's `max_batch`; while the engine is idle, a request waits `delay`.
    """

    host: str = _option("127.0.0.1", "address to listen on; default: this machine only")
    port: int = _option(8000, "port; 0 picks a free one", 0)
    key: str | None = _option(None, f"API key required of requests; better set in {KEY_VARIABLE}", shown=False)
    device: str = _option("auto", "cpu, cuda, tensorrt or auto")
    threads: int | None = _option(None, "CPU threads per engine")
    batch: int = _option(16, "largest batch of one engine call", 1)
    delay: float = _option(0.003, "seconds to wait for more requests to batch", 0)
    queue: int = _option(256, "maximum samples waiting per model; further requests are refused", 1)
    max_samples: int = _option(64, "maximum samples per request", 1)
    max_body: int = _option(16 << 20, "maximum bytes per request", 1)
    preview: float = _option(0.15, "minimum seconds between previews", 0)
    drain: float = _option(30.0, "seconds to finish open requests on shutdown", 0)

    def __post_init__(self) -> None:
        for one in fields(self):
            value, low = getattr(self, one.name), one.metadata["least"]
            if low is not None and not low <= value < float("inf"):  # false for nan
                message = f"`{one.name}` must be a number of at least {low}, not {value}"
                raise BundleError("E0619", message, f"leave `--{one.name.replace('_', '-')}` out for the default")
        if self.key is not None and not (self.key and self.key.isascii() and self.key.isprintable()):
            raise BundleError("E0619", "the API key is empty or not ASCII text", "choose a long random word")

    @property
    def loopback(self) -> bool:
        """True if only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class HttpError(Exception):
    """A request that is refused: status, diagnostic, further headers of the answer, and the field at fault if known."""

    def __init__(
        self, status: int, error: BundleError, headers: Mapping[str, str] | None = None, field: str | None = None
    ) -> None:
        super().__init__(status, error)
        self.status, self.error, self.headers, self.field = status, error, dict(headers or {}), field


CLOSED = 499
"""Status of a request whose client left: nobody reads the answer, but logs and metrics count it."""

_STATUS = {"E0607": 500, "E0612": 422}


def http_error(error: BundleError) -> HttpError:
    """The answer to a request for which the runtime raised `error`."""
    return HttpError(_STATUS.get(error.code, 400), error)


def refused(status: int, code: str, message: str, help: str | None = None, **headers: str) -> HttpError:
    """An HttpError from the parts of its diagnostic; `Retry_After` names the header Retry-After."""
    return HttpError(
        status, BundleError(code, message, help), {name.replace("_", "-"): text for name, text in headers.items()}
    )
