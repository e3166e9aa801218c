"""An emitted training project, imported: its modules as attributes, gone from `sys.modules` afterwards."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from latentc.components.contract import Lowered
from latentc.emit import project_from_lowered


@contextlib.contextmanager
def emitted(lowered: Lowered, spec: Any, folder: Path) -> Iterator[SimpleNamespace]:
    """Write the project into `folder` and import model, objective and sampler from there."""
    files = project_from_lowered(lowered, spec, folder)
    tops = {file.relative_to(folder).parts[0].removesuffix(".py") for file in files}
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
    sys.path.insert(0, str(folder))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in ("model", "objective", "sampler")})
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]
        sys.modules.update(before)
