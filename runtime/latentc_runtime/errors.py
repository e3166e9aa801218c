"""The one exception of the runtime."""

from __future__ import annotations


class BundleError(Exception):
    """A bundle that cannot be used, or a request it cannot serve: a code, a message and a remedy.

    `latentc explain CODE` has a page for each.
    """

    def __init__(self, code: str, message: str, help: str | None = None) -> None:
        super().__init__(code, message, help)
        self.code, self.message, self.help = code, message, help

    def __str__(self) -> str:
        mend = f"\n  help: {self.help}" if self.help else ""
        return f"error[{self.code}]: {self.message}{mend}"
