"""Folders that appear whole: several makers of one at once, and what comes in the way while one is being made."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from latentc.diagnostics import DiagnosticError
from latentc.export.folder import new_folder


def test_makers_of_one_folder_replace_each_other(tmp_path: Path) -> None:
    target = tmp_path / "b"

    def make(number: int) -> None:
        with new_folder(target) as folder:
            for name in ("manifest.json", "weights"):
                (folder / name).write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make, range(200)))
    assert (target / "manifest.json").read_text() == (target / "weights").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_what_has_come_in_the_meantime_stays(tmp_path: Path) -> None:
    target = tmp_path / "b"
    with pytest.raises(DiagnosticError, match="E0502"), new_folder(target) as folder:
        (folder / "manifest.json").touch()
        target.mkdir()
        (target / "thesis.txt").write_text("years of work")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert (target / "thesis.txt").read_text() == "years of work"


def test_many_files_that_cannot_be_copied_are_told_as_one(tmp_path: Path) -> None:
    failed = [(f"{i}.py", f"b/{i}.py", "[Errno 28] No space left on device") for i in range(9)]
    with pytest.raises(DiagnosticError) as told, new_folder(tmp_path / "b"):
        raise shutil.Error(failed)
    assert str(told.value).count("No space left") == 1
