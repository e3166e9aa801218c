"""The search of samplers that denoise in steps: solvers, timesteps, guidance intervals, reused work."""

from __future__ import annotations

import math
from functools import partial

from latentc.components.contract import Lowered
from latentc.components.samplers.base import ArraySampler
from latentc.measure.metrics import alternated, mean_distance
from latentc.passes.feature_cache_methods import block_lists
from latentc.tune.alternatives import reference
from latentc.tune.candidates import COUNTS, reusing
from latentc.tune.denoiser import Array, open_denoiser
from latentc.tune.found import Found, Task
from latentc.tune.quality import Figure
from latentc.tune.screen import FINE, open_screen, shortlist
from latentc_runtime.sources import Given

TRAJECTORY_BYTES = 1 << 29  # largest memory for the reference solution of the search
FAST = 0.1  # seconds of an evaluation of one sample up to which several at once are timed
FEWEST = 4  # samples of a search for which there is little time


class Denoising:
    """The search over the network on its engine, all samplers from the same noise."""

    exact = True

    def __init__(self, own: ArraySampler, task: Task) -> None:
        self._denoiser = open_denoiser(task.spec, task.weights, task.options.device)
        self.own, self.lowered = own, self._denoiser.lowered
        self.stochastic = any(part.stochastic for part in own.table(self._denoiser.target).parts())
        self._task = task

    def given(self, seed: int, count: int) -> Given:
        return self._denoiser.given(seed, count)

    def run(self, figure: Figure) -> Found:
        denoiser, own, task = self._denoiser, self.own, self._task
        task.tell(0, 1, "the reference solution")
        seconds = self._seconds()
        given = denoiser.given(task.options.seed, self._few(seconds))
        screen = open_screen(own, denoiser, given, task.stop, task.tell, task.left)
        coarse = denoiser.samples(reference(own, denoiser.target, FINE // 2), screen.given)
        most = task.options.most(own.table(denoiser.target).all_progress.size - 1)
        screened = screen.run(task.options.counts or tuple(count for count in COUNTS if count <= most))
        candidates = shortlist(screened)
        candidates += reusing(candidates, task.spec, _small_networks(self.lowered), _depth(self.lowered))
        exact = reference(own, denoiser.target, FINE)
        error = mean_distance(coarse, screen.fine.samples)
        return Found(tuple(screened), tuple(candidates), exact, error, seconds)

    def _seconds(self) -> float:
        """Seconds of an evaluation for one sample, as the spec's sampler begins; of several at once if it is fast."""
        at, seconds = float(self.own.table(self._denoiser.target).all_progress[0]), math.inf
        for count in (1, 16):
            given = self._denoiser.given(self._task.options.seed, count)
            once = partial(self._evaluated, given, self._denoiser.noise(given), at)
            (times,) = alternated([once], 0.0, 2)
            seconds = min(seconds, min(times) / count)
            if seconds > FAST:
                break
        return seconds

    def _evaluated(self, given: Given, x: Array, at: float) -> Array:
        return self._denoiser.network(self.own, given)(x, at)

    def _few(self, seconds: float) -> int:
        """Number of samples of the search: fewer if their whole trajectory, states and estimates, would be large.

        Or if it would take more than a third of the time of the search.
        """
        room = TRAJECTORY_BYTES // (2 * FINE * 4 * math.prod(self._denoiser.shape))
        time = self._task.left() / 3 / (1.5 * FINE * seconds)
        usual = max(16, min(64, self._task.options.samples // 4))
        return int(max(FEWEST, min(usual, room, time))) if room > FEWEST else max(1, room)


def _small_networks(lowered: Lowered) -> list[str]:
    """Networks that can replace `main` in some steps."""
    main = lowered.networks["main"]
    return [
        name
        for name, network in lowered.networks.items()
        if name != "main"
        and network.provides == main.provides
        and network.methods["forward"].inputs == main.methods["forward"].inputs
    ]


def _depth(lowered: Lowered) -> int:
    """Number of blocks of `main`, if they are one list; else 0."""
    lists = block_lists(lowered.module.functions[lowered.networks["main"].methods["forward"].function])
    return len(next(iter(lists.values()))) if len(lists) == 1 else 0
