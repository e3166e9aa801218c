"""How good a bundle's samples are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.diagnostics.faults import runtime_errors

if TYPE_CHECKING:
    from latentc.evaluate.results import Evaluation


def evaluate(
    samples: Path | str,
    reference: Path | str | None = None,
    metrics: Sequence[str] = (),
    features: Sequence[str] = (),
    classifier: str | None = None,
    training: Path | str | None = None,
    count: int | None = None,
    guidance: Sequence[float] = (),
    settings: Mapping[str, float] | None = None,
    seed: int = 0,
    program: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    most: int | None = None,
    output: Path | str | None = None,
    statistics: Path | str | None = None,
    workers: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """The figures of a bundle's samples, or of samples in files, against a reference; see `latentc.evaluate`.

    `reference`: a folder of images, an .npz of pictures or statistics, a spec, or a kind of data; by default the data
    of the bundle's spec, that part which training does not see if it is known. `metrics`: names of figures, all by
    default. `features`: extractors (`inception=FILE`, `digits`, a description in YAML), the main one first;
    `classifier` names one for class accuracy. `training`: what may have been copied, by default the spec's data.
    `count`: samples to draw, by default as many as the reference has, at most 10 000; of samples in files, drawn evenly
    over their classes by `seed`, by default all. `guidance`: scales to compare.
    `most`: real samples that are read, 50 000 by default. `output`: a folder for report.html and metrics.json.
    `statistics`: an .npz to write the reference's `mu` and `sigma` to. `workers` draw the samples, as for `sample_set`.
    Raises DiagnosticError: E0401 to E0403, E0408, E0412, E0501, E0502, E0601 to E0613, E0706, E0714, E0720 to E0722,
    E0726, E0741, E0742.
    """
    from latentc.evaluate.judge import Wanted
    from latentc.evaluate.metrics import figures_from_text
    from latentc.evaluate.reference import MOST, write_reference
    from latentc.evaluate.report import report_folder
    from latentc.evaluate.run import Options
    from latentc.evaluate.run import evaluate as run
    from latentc.samples.workers import executor_of

    wanted = Wanted(
        figures=tuple(figures_from_text(metrics)),
        features=tuple(features),
        classifier=classifier,
        reference=None if reference is None else str(reference),
        training=None if training is None else str(training),
        most=MOST if most is None else most,
        device=device,
    )
    executor = None if workers is None else executor_of(workers)
    options = Options(wanted, count, tuple(guidance), settings or {}, seed, program, steps, batch, device, executor)
    with report_folder(None if output is None else Path(output)) as write, runtime_errors():
        found = run(Path(samples), options, progress)
        write(found)
    if statistics is not None:
        write_reference(Path(statistics), found.judge.references[found.judge.main])
    return found
