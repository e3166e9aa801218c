"""The findings of `verify`, as data and as a table."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from latentc.measure.tables import aligned, finite

ORACLE, TORCH, ENGINE = "oracle", "PyTorch", "engine"


@dataclass(frozen=True)
class Comparison:
    """One result of `candidate` against `reference`.

    `what` is a method (`forward`, `decode`, `forward small` of network `small`) or, if `program`, a program (`sampler`,
    `program inpaint`); `point` says where (`t=981`, `call 3 of 50`, `50 steps`). `error` is the relative error, or the
    share of tokens that differ, whose tolerance is 0. `ties` counts tokens that rounding decided: the reference was
    then drawn again, deciding alike. `agreement` of logits: the share of positions with the same likeliest token.
    `rounding`: the oracle's own rounding error, if the usual tolerance is below what float32 reaches; `tolerance`
    then follows from it.
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
    agreement: float | None = None
    program: bool = False
    rounding: float | None = None


@dataclass(frozen=True)
class Control:
    """The comparison of `candidate` with a reference that has one weight changed (`weight`, its path): it must fail."""

    what: str
    candidate: str
    weight: str
    error: float
    tolerance: float
    ok: bool
    network: str = "main"


@dataclass(frozen=True)
class Divergence:
    """Where `candidate` first leaves the reference.

    `path` is the call (`blocks.3.attn`) or evaluation (`evaluation 7 of 50`); `error` the relative error there and
    `before` that of the call that ended before it.
    """

    candidate: str
    path: str
    detail: str
    error: float
    before: float


@dataclass(frozen=True)
class Skipped:
    """A comparison that was skipped, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Report:
    """Everything that was compared; `ok` if every comparison passed and every control failed as it must."""

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
        """True if a control passed that must fail, so that the comparisons mean nothing."""
        return not self.controls or not all(c.ok for c in self.controls)

    def data(self) -> dict[str, Any]:
        """The report as plain data that JSON holds; an error that is no finite number is null."""
        document: dict[str, Any] = finite(dataclasses.asdict(self))
        return {"ok": self.ok, "broken": self.broken, **document}

    def text(self) -> str:
        """The report as a table: one line per kind of comparison, with the worst of several."""
        lines = [f"{self.name} on {self.device}: {self.bundle}", ""]
        rows = [("", "point", "batch", "against", "what ran", "error", "tolerance", "")]
        for group in _groups(self.comparisons):
            worst = max(group, key=lambda c: (not c.ok, c.rounding is not None, c.error))
            batches = ", ".join(map(str, sorted({c.batch for c in group})))
            points = worst.point if len({c.point for c in group}) == 1 else f"{len(group)}, worst {worst.point}"
            ties = sum(c.ties for c in group)
            notes = ["ok" if worst.ok else "FAILED", *[f"{ties} tie{'s' * (ties > 1)}"] * bool(worst.ok and ties)]
            rounding = [c.rounding for c in group if c.rounding is not None]
            notes += [f"rounding: float32 itself is {max(rounding):.1e} off"] if rounding else []
            shares = [c.agreement for c in group if c.agreement is not None]
            notes += [f"{min(shares):.1%} of most likely tokens the same"] if shares else []
            mark = ", ".join(notes)
            rows.append(
                (worst.what, points, batches, worst.reference, worst.candidate, *_errors(worst), mark),
            )
        for control in self.controls:
            mark = "differs, as it must" if control.ok else "BROKEN: does not differ"
            rows.append(("control", control.weight, "1", "changed weight", control.candidate, *_errors(control), mark))
        lines += aligned(rows, left=len(rows[0]))
        for divergence in self.divergences:
            lines += [
                "",
                f"{divergence.candidate} first diverges at {divergence.path}: error {divergence.error:.1e}, "
                f"{divergence.before:.1e} before it{divergence.detail and '; ' + divergence.detail}",
            ]
        if self.skipped:
            lines += ["", *(f"not compared: {s.what}: {s.why}" for s in self.skipped)]
        verdict = "verified" if self.ok else "NOT VERIFIED"
        if not self.comparisons:
            verdict = "NOT VERIFIED: nothing was compared"
        elif self.broken:
            verdict = "NOT VERIFIED: a comparison that must fail did not, so the others are not reliable"
        lines += ["", f"{verdict} ({self.seconds:.1f} s)"]
        return "\n".join(lines) + "\n"


def _groups(comparisons: tuple[Comparison, ...]) -> list[list[Comparison]]:
    groups: dict[Any, list[Comparison]] = {}
    for c in comparisons:
        key = (c.what, c.reference, c.candidate, c.point if c.program else "")
        groups.setdefault(key, []).append(c)
    return list(groups.values())


def _errors(found: Comparison | Control) -> tuple[str, str]:
    if found.tolerance == 0:
        return (f"{found.error:.2%} of tokens", "identical")
    return (f"{found.error:.1e}", f"{found.tolerance:.{'0' if getattr(found, 'rounding', None) is None else '1'}e}")
