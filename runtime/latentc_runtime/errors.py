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
        """As consoles show it: control characters are escaped, so that a name in a bundle cannot drive the terminal."""
        mend = f"\n  help: {printable(self.help)}" if self.help else ""
        return f"error[{self.code}]: {printable(self.message)}{mend}"


def printable(text: str) -> str:
    """The text with characters that could drive a terminal written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
