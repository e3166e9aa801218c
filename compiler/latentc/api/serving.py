"""Serving bundles over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from latentc.diagnostics.faults import needed, runtime_errors


def serve(
    bundles: Sequence[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    key: str | None = None,
    *,
    announce: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Serve bundles (FOLDER or NAME=FOLDER) until SIGINT or SIGTERM, then finish open requests.

    `key`: API key that requests must carry. `announce` is called with the server's address. `options`: other fields of
    `latentc_runtime.serve.Options`. Call it in the main thread. Raises DiagnosticError: E0601 to E0613, E0619, E0706.
    """
    from latentc_runtime.serve import PACKAGES, Options
    from latentc_runtime.serve import serve as run

    for package in PACKAGES:
        needed(package, "latentc serve", 'pip install "latentc[serve]"')
    with runtime_errors():
        run(bundles, Options(host=host, port=port, key=key, **options), announce)
