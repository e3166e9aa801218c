"""Versions of the packages that a bundle's content depends on. Imports none of them but numpy."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import numpy as np


def versions(engine: str) -> dict[str, str]:
    """{package: version} for bundles of `engine`, the name of its package."""
    return {"numpy": np.__version__, **{name: _version(name) for name in ("onnx", engine)}}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


__all__ = ["versions"]
