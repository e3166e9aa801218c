"""`python -m latentc_runtime.serve BUNDLE…`: the server on a machine without the compiler."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import fields

from latentc_runtime.errors import BundleError
from latentc_runtime.serve import KEY_VARIABLE, Options, serve


def main(arguments: list[str] | None = None) -> int:
    """Run the server; returns the exit status."""
    parser = argparse.ArgumentParser("python -m latentc_runtime.serve", description="Serve bundles over HTTP.")
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="a folder, or NAME=FOLDER")
    for one in fields(Options):
        kind = {"int": int, "float": float}.get(str(one.type).partition(" ")[0], str)
        flag = f"--{one.name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=one.default, help=one.metadata["about"])
    parser.set_defaults(key=os.environ.get(KEY_VARIABLE))
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
