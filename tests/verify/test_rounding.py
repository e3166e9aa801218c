"""What float32 cannot do better is rounding; what is wrong stays wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from bundles import tiny_bundle
from tiny_systems import SYSTEMS

from latentc.export.lowerings import TABLE
from latentc.export.lowerings.table import Context, Lowering
from latentc.verify.report import ENGINE, ORACLE, TORCH, Comparison
from latentc.verify.rounding import MOST, with_rounding
from latentc.verify.run import verify


def compared(error: float, reference: str = ORACLE) -> Comparison:
    return Comparison("forward", "t=999", 1, reference, TORCH, error, 1e-5, error <= 1e-5)


def test_only_failed_comparisons_need_the_oracle_again() -> None:
    def never() -> float:
        raise AssertionError("the float32 oracle ran for nothing")

    assert with_rounding([compared(1e-6)], never) == [compared(1e-6)]


@pytest.mark.parametrize(
    ("error", "reference", "rounding", "ok"),
    [
        (3.9e-4, ORACLE, 1e-4, True),
        (4.1e-4, ORACLE, 1e-4, False),
        (7.9e-4, TORCH, 1e-4, True),  # of two that are both rounded
        (8.1e-4, TORCH, 1e-4, False),
        (2e-5, ORACLE, 1e-7, False),
        (2e-5, ORACLE, 0.0, False),
        (2e-2, ORACLE, 2 * MOST, False),  # float32 says nothing there
        (2e-2, ORACLE, float("inf"), False),
    ],
)
def test_a_small_multiple_of_the_oracles_own_error(error: float, reference: str, rounding: float, ok: bool) -> None:
    passed, found = with_rounding([compared(1e-6), compared(error, reference)], lambda: rounding)
    assert passed == compared(1e-6)
    assert found.ok == ok
    assert (found.rounding == rounding) == ok or found.tolerance < error
    assert rounding <= MOST or found.rounding == rounding, "it is not said why"


def _tarflow(folder: Path) -> Path:
    return tiny_bundle(SYSTEMS["tarflow"].spec, folder / "bundle", SYSTEMS["tarflow"].sizes)


def test_a_flow_that_loses_digits_is_rounded(tmp_path: Path) -> None:
    report = verify(_tarflow(tmp_path))
    assert report.ok, report.text()
    rounded = [c for c in report.comparisons if c.rounding is not None]
    assert rounded and all(c.what == "forward" and c.error > 1e-5 for c in rounded)
    assert "rounding: float32 itself is" in report.text()


def test_a_mistake_of_one_percent_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def larger(c: Context) -> None:
        c.final("Mul", [c.tmp("Gelu", [c.ins[0]]), c.scalar(1.01)])

    monkeypatch.setitem(TABLE, "gelu", Lowering(larger, TABLE["gelu"].opset))
    report = verify(_tarflow(tmp_path))
    failed = {(c.reference, c.candidate) for c in report.comparisons if not c.ok and c.what == "forward"}
    assert failed == {(ORACLE, ENGINE), (TORCH, ENGINE)}, report.text()
    assert not report.broken
