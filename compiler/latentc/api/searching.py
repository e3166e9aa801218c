"""A bundle's samples that a function rewards most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentc.diagnostics.faults import runtime_errors

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from latentc_runtime.tree import Found, Reward


def search(
    bundle: Path | str,
    reward: Reward | str,
    classes: Sequence[int | str] | str | None = None,
    per_class: int = 1,
    seed: int = 0,
    *,
    rollouts: int = 32,
    levels: int = 4,
    sharpness: float | None = None,
    count: int | None = None,
    guidance: float | None = None,
    settings: Mapping[str, ArrayLike] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    device: str = "auto",
    output: Path | str | None = None,
    raw: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Samples of a bundle with a high reward, `per_class` of each class in turn, each the best of a tree of `rollouts`.

    `reward` gives a number per sample, of samples [n, ...] and their classes; or it is FILE.py:FUNCTION. Without
    `sharpness` the best is sought (DTS*); with it samples are drawn from the density times exp(sharpness reward) (DTS);
    see `latentc_runtime.tree.search`. `output` and `raw` (with `rewards` and `history` beside `samples`) are written as
    `sample` writes them. Raises DiagnosticError: E0401, E0412, E0601 to E0613, E0704, E0714.
    """
    import numpy as np

    from latentc.api.sampling import check_files, given_classes, given_settings
    from latentc.files.named import write_arrays, write_files
    from latentc.tune.user_functions import UserFunction
    from latentc_runtime import load
    from latentc_runtime.media import encoded
    from latentc_runtime.tree import search as run

    check_files(output, raw)
    judge: Any = UserFunction(reward, "reward", "--reward") if isinstance(reward, str) else reward

    def rewarded(samples: np.ndarray, labels: np.ndarray | None) -> ArrayLike:
        found: ArrayLike = judge(samples, labels)
        if isinstance(judge, UserFunction):
            try:
                np.asarray(found, np.float64)
            except (TypeError, ValueError):
                raise judge.unusable(f"returned {found!r}", "return one finite number per sample") from None
        return found

    given: dict[str, Any] = {"rollouts": rollouts, "levels": levels, "steps": steps, "batch": batch}
    given |= {"settings": given_settings(settings, guidance=guidance) or None, "seed": seed, "progress": progress}
    given |= {"greedy": True} if sharpness is None else {"sharpness": sharpness}
    with runtime_errors():
        pipe = load(bundle, device)
        entry = pipe.program(None, steps)
        wanted = given_classes(pipe.manifest.conditions_of(entry), classes, per_class, count, {}, pipe.indexes)
        found = run(pipe, rewarded, wanted, count=count, **given)
        made = entry.outputs[0].output
        files = {} if output is None else encoded(found.samples, made, output, per_class if wanted else 8, None)
    if raw is not None:
        write_arrays(raw, {"samples": found.samples, "rewards": found.rewards, "history": found.history})
    write_files(files)
    return found
