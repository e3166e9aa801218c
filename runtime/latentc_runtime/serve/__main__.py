"""`python -m latentc_runtime.serve BUNDLE…`: the server on a machine without the compiler."""

from __future__ import annotations

import argparse
import os
import sys

from latentc_runtime.errors import BundleError
from latentc_runtime.serve import KEY_VARIABLE, Options, serve


def main(arguments: list[str] | None = None) -> int:
    """Run the server; returns the exit status."""
    usual = Options()
    parser = argparse.ArgumentParser("python -m latentc_runtime.serve", description="Serve bundles over HTTP.")
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="a folder, or NAME=FOLDER")
    parser.add_argument("--host", default=usual.host, help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, default=usual.port, help="0 for any free one")
    parser.add_argument("--key", default=os.environ.get(KEY_VARIABLE), help=f"API key; better in {KEY_VARIABLE}")
    parser.add_argument("--device", default=usual.device, help="cpu, cuda, tensorrt or auto")
    parser.add_argument("--threads", type=int, help="CPU threads of an engine")
    parser.add_argument("--batch", type=int, default=usual.batch, help="largest batch of one engine call")
    parser.add_argument("--delay", type=float, default=usual.delay, help="seconds to wait for other requests")
    parser.add_argument("--queue", type=int, default=usual.queue, help="samples that may wait per model")
    parser.add_argument("--max-samples", type=int, default=usual.max_samples, help="samples per request")
    parser.add_argument("--max-body", type=int, default=usual.max_body, help="bytes of a request")
    parser.add_argument("--drain", type=float, default=usual.drain, help="seconds to finish requests at the end")
    given = vars(parser.parse_args(arguments))
    bundles = given.pop("bundles")
    try:
        serve(bundles, Options(**given))
    except BundleError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
