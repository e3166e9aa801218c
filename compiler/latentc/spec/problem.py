"""What a rule across sections finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from latentc.spec.schema import Spec
from latentc.spec.yaml import PathKey


@dataclass(frozen=True)
class Problem:
    """What does not fit: the path it is shown at, and further paths with a text each."""

    code: str
    path: PathKey
    message: str
    label: str = ""
    labels: tuple[tuple[PathKey, str], ...] = ()
    help: str | None = None


Rule = Callable[[Spec], Iterator[Problem]]
