"""Serves bundles over HTTP: `python -m latentc_runtime.serve BUNDLE`, or `serve` from Python.

Needs the extra `serve` (FastAPI, fastapi-offline, uvicorn, prometheus-client, python-multipart); the modules that use
them are imported at the first call.

    options.py    settings of a server, and the errors it answers with
    run.py        the process: bundles, socket, signals
    app.py        routes          guards.py    what every request passes
    sampling.py   one request     wire.py, uploads.py: what came in     answers.py: what goes out
    scheduler.py  the queue of a model, and the thread that samples
    openai.py: pictures as OpenAI's interface makes them
    models.py  openapi.py  metrics.py  logs.py  page/
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from latentc_runtime.errors import BundleError
from latentc_runtime.serve.options import KEY_VARIABLE, Options

PACKAGES = {
    "fastapi": "fastapi",
    "fastapi_offline": "fastapi-offline",
    "uvicorn": "uvicorn",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
}


def serve(bundles: Sequence[str], options: Options, announce: Callable[[str], None] = print) -> None:
    """See `run.serve`. Raises BundleError E0619 if a package of the extra `serve` is missing."""
    try:
        from latentc_runtime.serve import run
    except ImportError as error:
        package = PACKAGES.get((error.name or "").partition(".")[0], error.name)
        raise BundleError(
            "E0619", f"serving needs {package}, which cannot be imported: {error}", 'pip install "latentc[serve]"'
        ) from None
    run.serve(bundles, options, announce)


__all__ = ["KEY_VARIABLE", "Options", "serve"]
