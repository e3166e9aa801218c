"""The engines that bundles are compiled for: one file each, whose `ENGINE` holds every fact about it.

The folder is the registry. To add an engine, add a file here and a backend to the runtime (docs/engines.md).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from itertools import chain
from typing import Final

from latentc.engines.contract import Engine

_HELPERS = ("contract", "tensorrt_common")


def _rows() -> dict[str, Engine]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _HELPERS)
    rows = [importlib.import_module(f"{__name__}.{name}").ENGINE for name in names]
    return {row.name: row for row in rows}


ENGINES: dict[str, Engine] = _rows()
"""{name: engine}, sorted by file."""

DEFAULT: Final = "onnxruntime"
"""The default engine."""


def distinct(groups: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """All names of all groups, each once, in the order of their first appearance."""
    return tuple(dict.fromkeys(chain.from_iterable(groups)))


PRECISIONS = distinct(engine.precisions for engine in ENGINES.values())
"""Every precision that some engine computes in."""

SCHEMES = distinct(engine.quantised.schemes for engine in ENGINES.values())
"""Every quantisation scheme that some engine runs."""

__all__ = ["DEFAULT", "ENGINES", "PRECISIONS", "SCHEMES", "Engine"]
