"""Opens bundles and serves them until a signal; then unfinished requests are finished."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import uvicorn

from latentc_runtime.errors import BundleError
from latentc_runtime.serve.app import App
from latentc_runtime.serve.logs import log_to_stderr
from latentc_runtime.serve.metrics import Metrics
from latentc_runtime.serve.models import open_models
from latentc_runtime.serve.options import Options

_log = logging.getLogger("latentc.serve")


def create_app(bundles: Sequence[str], options: Options | None = None) -> App:
    """An ASGI application that serves these bundles (FOLDER or NAME=FOLDER). BundleError (E0601 to E0613, E0619)."""
    options, metrics = options or Options(), Metrics()
    return App(open_models(bundles, options, metrics), options, metrics)


def serve(bundles: Sequence[str], options: Options, announce: Callable[[str], None] = print) -> None:
    """Serve bundles until SIGINT or SIGTERM, then finish what was begun. `announce` gets the address once it is bound.

    Call it in the main thread. Raises BundleError: E0601 to E0613 for a bundle, E0619 if the address cannot be used.
    """
    log_to_stderr()
    app = create_app(bundles, options)
    listener = _listener(options)
    host, port = listener.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(options.drain)),
        h11_max_incomplete_event_size=64 << 10,
    )
    server = _Server(config, app)
    # Before uvicorn sets the same handler, so that no signal is lost; uvicorn also raises signals again after it has
    # stopped, which would make a regular end look like a failure.
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        announce(address)
        if sys.stdout is not None:
            sys.stdout.flush()  # a pipe would hold it back until the end
        if not options.loopback and options.key is None:
            _log.warning("anyone who can reach this address can use it: set an API key", extra={"address": address})
        _log.info("listening", extra={"address": address, "models": list(app.models)})
        server.run(sockets=[listener])
        _log.info("stopped")
    finally:
        for number, action in before.items():
            signal.signal(number, action)
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn's server, which lets the application know that it is about to stop."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self.app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.app.draining:
            _log.info("draining", extra={"signal": signal.Signals(sig).name})
        self.app.draining = True
        super().handle_exit(sig, frame)


def _listener(options: Options) -> socket.socket:
    """A socket that listens. BundleError E0619 with the reason if the address cannot be used."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # there the option would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # a client that connects as soon as it knows the address waits instead of being refused
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BundleError(
            "E0619",
            f"cannot listen on {options.host} port {options.port}: {reason}",
            "check `--host`; another `--port` may be free, and 0 picks a free one",
        ) from None
    return listener
