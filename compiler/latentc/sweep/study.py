"""Which combination of settings comes next, and what is known of the others: a study of Optuna, in a journal on disk.

Of lists every combination is queued. With a range, Optuna's sampler proposes settings (TPE, Bergstra et al. 2011) from
the figures of the trials before.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from latentc.diagnostics.faults import needed
from latentc.sweep.axes import Axis, grid, is_grid

JOURNAL = "study.journal"
TRIALS = 20  # default number of trials with ranges
DIGITS = 6  # of numbers drawn from ranges

Chosen = dict[str, str]  # a value in YAML for the path of each axis


def need_optuna() -> Any:
    """optuna, or DiagnosticError E0706."""
    return needed("optuna", "a sweep", 'pip install "latentc[sweep]"')


class Study:
    """The trials of a sweep by number. `about` tells sweeps in one journal apart; `most`: how many trials at most."""

    def __init__(
        self,
        folder: Path,
        axes: Sequence[Axis],
        about: str,
        better: Literal["lower", "higher"],
        most: int | None,
        seed: int,
    ) -> None:
        self._optuna = optuna = need_optuna()
        self._axes = axes
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is experimental in Optuna
            backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
            storage = optuna.storages.JournalStorage(backend)
            name = hashlib.sha256(f"{about} {list(map(str, axes))} {better}".encode()).hexdigest()
            self._study = optuna.create_study(
                storage=storage,
                study_name=name,
                direction="minimize" if better == "lower" else "maximize",
                load_if_exists=True,
            )
            # Another seed for the trials of a continued sweep, whose first ones would repeat.
            begun = len(self._study.trials)
            self._study.sampler = optuna.samplers.TPESampler(seed=(seed + begun) % (1 << 32), constant_liar=True)
        if is_grid(axes):
            for chosen in islice(grid(axes), most):
                self._study.enqueue_trial(chosen, skip_if_exists=True)
            self.total = len(self._study.trials)
        else:
            self.total = TRIALS if most is None else most

    def held(self) -> dict[int, Chosen]:
        """The trials that have been begun, by number."""
        found = {}
        for trial in self._study.get_trials(deepcopy=False):
            params = trial.params or trial.system_attrs.get("fixed_params", {})
            if trial.state.name != "WAITING" and all(axis.path in params for axis in self._axes):
                found[trial.number] = self._chosen(params)
        return found

    def next(self) -> tuple[int, Chosen] | None:
        """The number and the settings of another trial; None if there are enough."""
        waiting = any(trial.state.name == "WAITING" for trial in self._study.get_trials(deepcopy=False))
        if not waiting and (is_grid(self._axes) or len(self.held()) >= self.total):
            return None
        trial = self._study.ask()
        return trial.number, self._chosen({axis.path: _suggested(trial, axis) for axis in self._axes})

    def finish(self, number: int, value: float | None) -> None:
        """Stores the figure of a trial, None for one that has none. One that is finished stays as it is."""
        state = self._optuna.trial.TrialState.FAIL if value is None else None
        self._study.tell(number, value, state, skip_if_finished=True)

    def _chosen(self, params: dict[str, Any]) -> Chosen:
        texts = {}
        for axis in self._axes:
            value = params[axis.path]
            texts[axis.path] = f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
        return texts


def _suggested(trial: Any, axis: Axis) -> Any:
    if axis.values:
        return trial.suggest_categorical(axis.path, axis.values)
    if axis.whole:
        return trial.suggest_int(axis.path, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.path, axis.low, axis.high, log=axis.log)
