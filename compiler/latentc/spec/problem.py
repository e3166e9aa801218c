"""The result of a rule across sections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from latentc.spec.schema import Spec
from latentc.spec.yaml import PathKey


@dataclass(frozen=True)
class Problem:
    """A mismatch between sections, shown at `path`; `labels` {further path: text}."""

    code: str
    path: PathKey
    message: str
    label: str = ""
    labels: tuple[tuple[PathKey, str], ...] = ()
    help: str | None = None


Rule = Callable[[Spec], Iterator[Problem]]
