"""The wheel and the sdist hold all that an installation needs: specs, templates, the served page."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import installs
import pytest
from hub_server import serving

ROOT = Path(__file__).parents[1]
MAIN = "from latentc.__main__ import main; main()"


def test_every_extra_is_installed_and_measured() -> None:
    """docs/install.md says what each extra adds, and `make installs` uses each but the developers' own."""
    extras = {*tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]}
    assert {*installs.PURPOSES} == extras
    assert {extra for names in installs.USES for extra in names.split(",") if extra} == extras - {"dev"}
    (table,) = installs.TABLE.findall(installs.PAGE.read_text())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["latentc without extras", *(f"`{name}`" for name in installs.PURPOSES)]
    for name, purpose, download, installed in rows[1:]:
        assert purpose == installs.PURPOSES[name.strip("`")]
        if download != "not measured":
            sizes = [int(cell.removeprefix("over ").replace(",", "")) for cell in (download, installed)]
            assert 0 < sizes[0] < sizes[1]


def test_sizes_are_those_of_the_wheel(tmp_path: Path) -> None:
    """Of a local wheel and one of a server that answers ranges."""
    with zipfile.ZipFile(tmp_path / "one.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one/__init__.py", "x = 1\n" * 10_000)
    size = (tmp_path / "one.whl").stat().st_size
    with serving() as server:
        server.files["/one.whl"] = (tmp_path / "one.whl").read_bytes()
        for url in ((tmp_path / "one.whl").as_uri(), f"{server.url}/one.whl"):
            assert installs.size_of(url) == (size, 60_000)
        assert any(asked.startswith("range") for asked in server.asked)


def built(source: Path, to: Path, kind: str) -> Path:
    """The wheel or sdist of a source tree."""
    line = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(to)]
    subprocess.run(line, cwd=source, check=True, capture_output=True, timeout=120)
    (file,) = to.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return file


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built(ROOT, folder, "sdist")) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    return source


@pytest.fixture(scope="module")
def site(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the sdist, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built(sdist, tmp_path_factory.mktemp("wheel"), "wheel")) as archive:
        archive.extractall(folder)
    return folder


def latentc(site: Path, folder: Path, *args: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    line = [sys.executable, "-P", "-c", MAIN, *args]
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_works_without_the_repository(site: Path, tmp_path: Path) -> None:
    where = [sys.executable, "-P", "-c", "import latentc, latentc_runtime; print(latentc.__file__)"]
    env = {**os.environ, "PYTHONPATH": str(site)}
    assert Path(subprocess.check_output(where, cwd=tmp_path, env=env, text=True).strip()).is_relative_to(site)
    assert "digits_dit" in latentc(site, tmp_path, "specs")
    latentc(site, tmp_path, "init", "first")
    assert latentc(site, tmp_path, "check", "first.yaml") == "first: no errors found\n"
    latentc(site, tmp_path, "emit", "first.yaml", "-o", "project")
    assert (tmp_path / "project/train.py").is_file()
    assert latentc(site, tmp_path, "explain", "E0203").startswith("# E0203")


@pytest.mark.parametrize("folder", ["compiler/latentc", "runtime/latentc_runtime"])
def test_the_wheel_has_every_file_of_the_packages(site: Path, folder: str) -> None:
    kept = {p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    missing = [p for p in kept if not (site / p.relative_to((ROOT / folder).parent)).is_file()]
    assert not missing


def test_the_sdist_has_every_page_and_test(sdist: Path) -> None:
    wanted = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.py")]
    assert not [p for p in wanted if not (sdist / p.relative_to(ROOT)).is_file()]
