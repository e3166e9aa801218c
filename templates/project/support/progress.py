"""Progress of long work: a bar on a terminal; elsewhere a line every half minute, with totals and the time left."""

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

EVERY = 30.0  # seconds before the first line and between lines


class Lines(tqdm):
    """A bar that prints lines."""

    def __init__(self, *rows: Any, **given: Any):
        line = "{desc}: {n_fmt} of {total_fmt} {unit}s, {remaining} left"
        super().__init__(*rows, **given, bar_format=line, delay=EVERY, mininterval=EVERY, leave=False)

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        return lambda text: print(text, flush=True) if text else None


def shown(*rows: Any, **given: Any) -> Any:
    """`tqdm(rows, …)`, as lines if standard error is not a terminal."""
    return (tqdm if sys.stderr.isatty() else Lines)(*rows, **given)
