"""Shared by the searches of all samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from latentc.components.contract import Lowered
from latentc.spec.schema import Spec
from latentc.tune.candidates import Candidate, Tunable
from latentc.tune.options import Options
from latentc.tune.quality import Figure
from latentc.tune.screen import Screened, Tell
from latentc.weights import Expr
from latentc_runtime.sources import Given


@dataclass(frozen=True)
class Task:
    """Inputs of a search: the spec, its weights, `stop` (true once time has run out) and `tell` for progress.

    `left`: seconds that the search still has.
    """

    spec: Spec
    weights: Mapping[str, Mapping[str, Expr]]
    options: Options
    stop: Callable[[], bool]
    tell: Tell
    left: Callable[[], float] = lambda: math.inf


@dataclass(frozen=True)
class Found:
    """Trials of a search, and the candidates to compile.

    `exact`: a sampler of the reference solution, and `reference_error`, how far it is from one of half as many steps;
    None if there is no such solution. `seconds`: of one evaluation for one sample, 0 if that was not measured.
    """

    screened: tuple[Screened, ...]
    candidates: tuple[Candidate, ...]
    exact: Tunable | None = None
    reference_error: float | None = None
    seconds: float = 0.0


class Search(Protocol):
    """A search of the samplers of a spec. `exact`: whether samples have a reference solution from the same noise.

    `stochastic`: the spec's own sampler has none, whatever others have.
    """

    own: Tunable
    lowered: Lowered
    exact: bool
    stochastic: bool

    def given(self, seed: int, count: int) -> Given:
        """Default conditions of `count` samples."""
        ...

    def run(self, figure: Figure) -> Found:
        """The search; `figure` judges samples by what ranks candidates, lower is better."""
        ...
