"""The report of an evaluation: one file that needs nothing else, opened in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import look_at
from bundles import TINY_DIT, tiny_bundle

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.charts import chart, ticks

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of 40 samples at three scales, of a model whose classes have names, one of them hostile."""
    home = tmp_path_factory.mktemp("report")
    names = ["zero", "<script>alert(1)</script>", *(f"digit {i}" for i in range(2, 10))]
    overrides = (*TINY_DIT, f"data.class_names={json.dumps(names)}")
    bundle = tiny_bundle("digits_dit", home / "bundle", overrides, max_batch=None)
    api.evaluate(bundle, count=40, guidance=[1, 1.5, 2], output=home / "out")
    return home / "out"


def test_what_is_written(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {"report.html", "metrics.json"}
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert [run["guidance"] for run in found["runs"]] == [1, 1.5, 2]
    assert found["runs"][0]["figures"] != found["runs"][2]["figures"]
    assert set(found["runs"][0]["classes"]) >= {"zero", "digit 2"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "") and 'src="data:' in page


def test_a_folder_of_other_things_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.tex").write_text("…")
    with pytest.raises(DiagnosticError, match="E0502"):
        api.evaluate(folder.parent / "bundle", count=40, guidance=[1], output=tmp_path / "taken")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(folder: Path, scheme: str) -> None:
    async def look(page: Any) -> None:
        titles = await page.locator("h2").all_inner_texts()
        assert titles[1:5] == ["Guidance", "Samples", "Nearest training samples", "Classes"]
        assert await page.locator(".samples img[alt^=sample]").count() == 40
        assert await page.locator(".samples img[alt^=real]").count() == 80
        assert await page.locator(".pairs figure").count() == 12
        assert await page.locator(".samples b").all_inner_texts() == ["samples", "real"]
        drawn = await page.evaluate("[...document.images].map(i => [i.naturalWidth, i.naturalHeight])")
        assert drawn == [[8, 8]] * 144
        assert await page.locator(".samples > span").nth(1).inner_text() == "zero"
        names, values = [await page.locator(tag).all_inner_texts() for tag in ("dt", "dd")]
        facts = dict(zip(names, values, strict=True))
        assert facts["steps"] == "6" and facts["guidance"] == "1, 1.5, 2" and "seeds 0 to 39" in facts["samples"]
        assert "classifier of scikit-learn's digits" in facts["features"]
        assert "not with published" in facts["comparable"]
        assert await page.locator("svg").count() == 3 and await page.locator("svg circle").count() >= 15
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 1100  # wide tables scroll by themselves
        ink, back = await page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
        assert ink != back and (back == "rgb(20, 23, 28)") == (scheme == "dark")

    file = folder / "report.html"
    asked = look_at(file, look, scheme)
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


def test_ticks_are_round_and_hold_the_values() -> None:
    assert ticks(1, 4) == [1, 1.5, 2, 2.5, 3, 3.5, 4]
    for low, high in ((0.1671, 1.806), (3, 3), (-5e-3, 2e-2), (0, 0), (12345, 99999)):
        found = ticks(low, high)
        assert found[0] <= low and found[-1] >= high and 2 <= len(found) <= 9
        assert np.allclose(np.diff(found), found[1] - found[0])


def test_a_chart_keeps_its_points_inside() -> None:
    made = chart("fid", "guidance scale", {"fid": [(1, 0.2), (4, 1.8)]}, ["1", "4"])
    (line,) = made.lines
    assert all(made.left <= m.x <= made.right and made.top <= m.y <= made.bottom for m in line.marks)
    assert line.marks[0].x < line.marks[1].x and line.marks[0].y > line.marks[1].y
    assert [m.text for m in line.marks] == ["1", "4"] and line.path.startswith("M")
