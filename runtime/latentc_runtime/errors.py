"""The one exception of the runtime."""

from __future__ import annotations

# What each code is about; `latentc explain CODE` has a page for each.
CODES: dict[str, str] = {
    "E0601": "not a bundle",
    "E0602": "the manifest is damaged",
    "E0603": "the bundle's format is unknown to this runtime",
    "E0604": "a file of the bundle is missing or damaged",
    "E0605": "a file name leaves the bundle",
    "E0606": "no engine for this bundle on this machine",
    "E0607": "the engine failed",
    "E0608": "the bundle cannot serve this request",
    "E0609": "the bundle does not hold this program or number of steps",
    "E0610": "the given noise does not fit",
    "E0611": "a referenced weight file is missing or changed",
    "E0612": "samples of this medium have no such format",
    "E0613": "the bundle's plans do not fit this machine",
    "E0614": "the server takes no more requests now",
    "E0615": "the request is too large for the server",
    "E0616": "the server refuses this client",
    "E0617": "the server has nothing at this address",
    "E0618": "the request cannot be read",
    "E0619": "the server cannot start",
    "E0620": "the index of neighbours does not fit the bundle",
}


class BundleError(Exception):
    """A bundle that cannot be used, or a request it cannot serve: a code of `CODES`, a message and a remedy."""

    def __init__(self, code: str, message: str, help: str | None = None) -> None:
        super().__init__(code, message, help)
        self.code, self.message, self.help = code, message, help

    def __str__(self) -> str:
        mend = f"\n  help: {self.help}" if self.help else ""
        return f"error[{self.code}]: {self.message}{mend}"
