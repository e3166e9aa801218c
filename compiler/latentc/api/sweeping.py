"""Many settings of one spec, trained and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.api._common import Source, check_data
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed

if TYPE_CHECKING:
    from latentc.sweep.report import Swept


def sweep(
    source: Source,
    folder: Path | str,
    settings: Sequence[str],
    variant: str | None = None,
    metrics: Sequence[str] = (),
    features: Sequence[str] = (),
    reference: Path | str | None = None,
    count: int | None = None,
    trials: int | None = None,
    workers: str | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[int, int, str], None] | None = None,
) -> Swept:
    """Train, compile and judge a spec with each combination of `settings`; the best becomes a spec in `folder`.

    `settings`: texts as `--set` takes them, of one value or of several, "train.optimizer.lr=1e-4,3e-4", or of a range,
    "1e-4..1e-2:log", of which `trials` are proposed (20 by default). `metrics`: figures of `evaluate`, the first of
    which ranks trials; `fd` by default. `features`, `reference`, `count` and `seed` as `evaluate` takes them.
    `workers`: trials at once, "ray" or "ray:ADDRESS". Trials that finished in an earlier run are kept, an interrupted
    training goes on. `progress` is called with each finished trial. Raises DiagnosticError: those of `check`, E0412,
    E0502, E0706, E0708, E0714, E0717, E0718, E0720 to E0722, E0741.
    """
    from latentc.evaluate import judge
    from latentc.evaluate.judge import Wanted
    from latentc.evaluate.metrics import figures_from_text
    from latentc.export.bundle import program_outputs
    from latentc.lower import lower
    from latentc.spec import load_spec
    from latentc.sweep.axes import axes_from_text
    from latentc.sweep.run import Options
    from latentc.sweep.run import sweep as run
    from latentc.sweep.trials import Judging

    fixed, axes = axes_from_text(settings)
    names = tuple(figures_from_text(metrics)) or ("fd",)
    spec = load_spec(source, variant, fixed)
    lowered = lower(spec, to_emit=True)
    check_data(spec, lowered)
    if not lowered.updates or not lowered.programs:
        lacks = "objective to train" if not lowered.updates else "sampler to judge"
        mend = "a sweep trains, compiles and draws samples"
        raise DiagnosticError.of("E0708", f"the spec `{spec.name}` has no {lacks}", help=mend)
    needed("torch", "training", 'pip install "latentc[torch]"')
    judging = Judging(names, tuple(features), None if reference is None else str(reference), count, seed, device)
    program = lowered.programs[0]
    made = lowered.module.entry(program.entry)
    output = program_outputs(program, made, [value.name for value in made.outputs], spec)[0].output
    wanted = Wanted(names, judging.features, None, judging.reference, device=device)

    def compared() -> None:
        judge.open_judge(wanted, spec.data, output, lambda done, total, stage: None)

    options = Options(judging, trials, workers)
    plain = None if variant is not None or str(source) == "-" else source
    return run(plain, spec, fixed, axes, Path(folder), options, compared, progress or (lambda done, total, line: None))
