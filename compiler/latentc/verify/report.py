"""What `verify` found, as data and as a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ORACLE, TORCH, ENGINE = "oracle", "PyTorch", "engine"


@dataclass(frozen=True)
class Comparison:
    """One result of `candidate` against `reference`.

    `what` is `forward` (one run of a network) or `sampler`; `point` says on what (`t=981`, `50 steps`). `error` is the
    relative error; of token sequences, which have tolerance 0, the share of tokens that differ. `ties` counts tokens
    between which rounding decided, after which a sequence is compared as if the reference had decided alike.
    """

    what: str
    point: str
    batch: int
    reference: str
    candidate: str
    error: float
    tolerance: float
    ok: bool
    ties: int = 0


@dataclass(frozen=True)
class Control:
    """The comparison of `candidate` with a reference of which one weight was changed: it must fail.

    `weight` is the changed weight's path; `error` what came out of it.
    """

    what: str
    candidate: str
    weight: str
    error: float
    tolerance: float
    ok: bool


@dataclass(frozen=True)
class Divergence:
    """Where `candidate` first leaves the reference.

    `path` is the call (`blocks.3.attn`) or evaluation (`step 7 of 50`); `error` the relative error there and `before`
    that of the call that ended before it.
    """

    candidate: str
    path: str
    detail: str
    error: float
    before: float


@dataclass(frozen=True)
class Skipped:
    """What was not compared, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Report:
    """All that `verify` found; `ok` if every comparison passed and every control failed as it must."""

    bundle: str
    name: str
    device: str
    comparisons: tuple[Comparison, ...]
    controls: tuple[Control, ...]
    divergences: tuple[Divergence, ...]
    skipped: tuple[Skipped, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        return bool(self.comparisons) and all(c.ok for c in self.comparisons) and not self.broken

    @property
    def broken(self) -> bool:
        """Whether a control passed that must fail, so that the comparisons mean nothing."""
        return not self.controls or not all(c.ok for c in self.controls)

    def data(self) -> dict[str, Any]:
        """The report as plain data that JSON holds; an error that is no finite number is null."""
        document: dict[str, Any] = _finite(dataclasses.asdict(self))
        return {"ok": self.ok, "broken": self.broken, **document}

    def text(self) -> str:
        """The report as a table, one line a kind of comparison, the worst first where several were made."""
        lines = [f"{self.name} on {self.device}: {self.bundle}", ""]
        rows = [("", "point", "batch", "against", "what ran", "error", "tolerance", "")]
        for group in _groups(self.comparisons):
            worst = max(group, key=lambda c: (not c.ok, c.error))
            batches = ", ".join(map(str, sorted({c.batch for c in group})))
            points = worst.point if len({c.point for c in group}) == 1 else f"{len(group)}, worst {worst.point}"
            ties = sum(c.ties for c in group)
            mark = f"ok, {ties} tie{'s' * (ties > 1)}" if worst.ok and ties else "ok" if worst.ok else "FAILED"
            rows.append(
                (worst.what, points, batches, worst.reference, worst.candidate, *_errors(worst), mark),
            )
        for control in self.controls:
            mark = "differs, as it must" if control.ok else "BROKEN: does not differ"
            rows.append(("control", control.weight, "1", "changed weight", control.candidate, *_errors(control), mark))
        lines += _table(rows)
        for divergence in self.divergences:
            lines += [
                "",
                f"{divergence.candidate} first diverges at {divergence.path}: error {divergence.error:.1e}, "
                f"{divergence.before:.1e} before it{divergence.detail and '; ' + divergence.detail}",
            ]
        if self.skipped:
            lines += ["", *(f"not compared: {s.what}: {s.why}" for s in self.skipped)]
        verdict = "verified" if self.ok else "NOT VERIFIED"
        if self.broken:
            verdict = "NOT VERIFIED: a comparison that must fail did not, so the others mean nothing"
        lines += ["", f"{verdict} ({self.seconds:.1f} s)"]
        return "\n".join(lines) + "\n"


def _groups(comparisons: tuple[Comparison, ...]) -> list[list[Comparison]]:
    groups: dict[Any, list[Comparison]] = {}
    for c in comparisons:
        key = (c.what, c.reference, c.candidate, "" if c.what.startswith("forward") else c.point)
        groups.setdefault(key, []).append(c)
    return list(groups.values())


def _errors(found: Comparison | Control) -> tuple[str, str]:
    if found.tolerance == 0:
        return (f"{found.error:.2%} of tokens", "identical")
    return (f"{found.error:.1e}", f"{found.tolerance:.0e}")


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["ENGINE", "ORACLE", "TORCH", "Comparison", "Control", "Divergence", "Report", "Skipped"]
