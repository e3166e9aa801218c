"""The search of samplers that reveal masked tokens: a number per step for all that a schedule says."""

from __future__ import annotations

from latentc.components.samplers._masked import ListedSampler
from latentc.evaluate.sources import labels_of
from latentc.lower import lower
from latentc.tune.candidates import Candidate
from latentc.tune.drawing import open_drawing
from latentc.tune.found import Found, Task
from latentc.tune.quality import Figure
from latentc.tune.schedules import descended
from latentc.tune.screen import Screened
from latentc_runtime.sources import Given, default_given

COUNTS = (4, 6, 8, 12)
"""Numbers of steps to try, if they are fewer than the spec's own: the search costs as their square."""

UPDATES = 20  # of all numbers, each after as many nudges as there are numbers


class Masked:
    """The search over the program on its engine, all samplers on the same seeds, `options.samples` of them."""

    exact = False
    stochastic = True

    def __init__(self, own: ListedSampler, task: Task) -> None:
        self.own, self.lowered, self._task = own, lower(task.spec), task

    def given(self, seed: int, count: int) -> Given:
        return default_given(count, seed % (1 << 64), self.lowered.conditions, self.lowered.programs[0].settings)

    def run(self, figure: Figure) -> Found:
        task, options = self._task, self._task.options
        most = options.most(self.own.steps - 1)
        counts = options.counts or tuple(count for count in COUNTS if count <= most)
        given = self.given(options.seed, options.samples)
        labels = labels_of(given, self.lowered.conditions)
        screened: list[Screened] = []
        for steps in counts:
            if task.stop():
                break
            usual = self.own.with_steps(steps)
            assert isinstance(usual, ListedSampler)
            drawing = open_drawing(task.spec, usual, task.weights, options.device)

            def judged(sampler: ListedSampler, drawing=drawing) -> float:  # type: ignore[no-untyped-def]
                return figure(drawing.samples(sampler, given), labels)

            def tell(done: int, steps: int = steps) -> None:
                task.tell(done, UPDATES, f"schedules of {steps} steps")

            start = usual.listed(drawing.length)
            runs = steps if usual.guidance is None else 2 * steps
            screened.append(Screened(Candidate(usual), steps, runs, judged(start)))
            best, least = descended(start, drawing.length, judged, UPDATES, task.stop, tell)
            screened.append(Screened(Candidate(best, "schedules"), steps, runs, least))
        return Found(tuple(screened), tuple(one.candidate for one in screened))
