"""The chunks of a sample set that several workers draw, in order, and again if a worker dies."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from latentc.diagnostics import DiagnosticError

ATTEMPTS = 3  # number of workers that may die on one chunk
AHEAD = 4  # chunks per worker between the oldest unfinished one and the newest


class Schedule:
    """Which chunk is drawn next, and how many workers died of each."""

    def __init__(self, chunks: Sequence[range], workers: int) -> None:
        self._waiting = deque(enumerate(chunks))
        self._unfinished = dict(enumerate(chunks))
        self._ahead, self._lost = AHEAD * workers, Counter[int | None]()

    def __bool__(self) -> bool:
        return bool(self._unfinished)

    def next(self) -> tuple[int, range] | None:
        """The next chunk and its number; None if there is none, or the oldest unfinished one is too far behind."""
        if not self._waiting or self._waiting[0][0] >= next(iter(self._unfinished)) + self._ahead:
            return None
        return self._waiting.popleft()

    def finish(self, number: int) -> range:
        """Takes note that a chunk was drawn; returns it."""
        return self._unfinished.pop(number)

    def lose(self, number: int | None, why: str) -> None:
        """Takes note that the worker of a chunk died, or one that had none yet.

        DiagnosticError E0742 if that was the last attempt.
        """
        self._lost[number] += 1
        rows = None if number is None else self._unfinished[number]
        if self._lost[number] >= ATTEMPTS:
            what = f"while they drew samples {rows.start} to {rows.stop - 1}" if rows else "as they opened the bundle"
            message = f"{ATTEMPTS} workers died {what}"
            mend = "a worker may lack memory: try a smaller --batch, fewer workers, or one process (--workers 1)"
            raise DiagnosticError.of("E0742", message, help=f"{mend}. The last one: {why}")
        if number is not None and rows is not None:
            self._waiting.appendleft((number, rows))
