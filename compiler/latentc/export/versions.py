"""Versions of the packages that a bundle's content depends on, without importing them."""

from __future__ import annotations

from latentc.engines.contract import installed


def versions(engine: str) -> dict[str, str]:
    """{package: version} for bundles of `engine`, the name of its package."""
    return {name: installed(name) or "not installed" for name in ("numpy", "onnx", engine)}
