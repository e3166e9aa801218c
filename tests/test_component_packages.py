"""Components of a user's own: found by folder, by entry point and by configuration, and never because of a spec."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from own_packages import again, fresh

from latentc import api, components
from latentc.cli import run
from latentc.components import packages
from latentc.diagnostics import DiagnosticError
from latentc.measure import doctor

NORM = '''"""A norm."""

from typing import Any, ClassVar, Literal

from latentc.components.blocks.norms.layer_norm import LayerNorm


class Mine(LayerNorm):
    """A layer norm of one's own."""

    kind: Literal["my_norm"] = "my_norm"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "my_norm"}
'''
TABLE = {"blocks/norms": {"my_norm": "norm"}}
SPEC = """latentc: 1
name: own
extends: digits_dit
backbone: {block: {norm: {kind: my_norm, affine: true}}}
"""


__all__ = ["fresh"]
pytestmark = pytest.mark.usefixtures("fresh")


def package(folder: Path, table: object = TABLE, **modules: str) -> Path:
    """A component package in a folder of its name."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(f'"""Mine."""\n\nCOMPONENTS = {table!r}\n')
    for name, text in (modules or {"norm": NORM}).items():
        (folder / f"{name}.py").write_text(text)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(DiagnosticError) as caught:
        components.use(folder)
        components.load("blocks/norms")
    (fault,) = caught.value.diagnostics
    assert fault.code == "E0902"
    return f"{fault.message} | {fault.help}"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "own.yaml"
    file.write_text(SPEC)
    return file


def test_an_option_adds_a_package(tmp_path: Path, spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(spec)]) == 1
    assert "unknown kind `my_norm`" in capsys.readouterr().err
    folder = package(tmp_path / "mypkg")
    assert run(["check", str(spec), "--components", str(folder)]) == 0
    assert "own: no errors found" in capsys.readouterr().out


def test_every_enumeration_knows_its_kinds(tmp_path: Path, spec: Path) -> None:
    components.use(package(tmp_path / "mypkg"))
    assert "my_norm" in components.load("blocks/norms") and "my_norm" in json.dumps(api.schema())
    with pytest.raises(DiagnosticError) as caught:
        api.check(spec, None, ['backbone.block.norm.kind="my_nrm"'])
    assert caught.value.diagnostics[0].labels[0].text == "did you mean `my_norm`?"
    (row,) = doctor._components()
    assert (row.name, row.state) == ("components mypkg", "ok") and "blocks/norms: my_norm" in row.detail


def test_specs_of_a_package_are_listed_and_found(tmp_path: Path) -> None:
    folder = package(tmp_path / "mypkg")
    (folder / "specs").mkdir()
    (folder / "specs/my_system.yaml").write_text(SPEC)
    assert "mypkg" not in api.specs()
    components.use(folder)
    assert api.specs()["mypkg"].keys() == {"my_system"}
    assert api.check("my_system").name == "own"


def test_the_environment_and_the_configuration_name_packages(
    tmp_path: Path, spec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package(tmp_path / "home/latentc/mypkg")
    monkeypatch.setenv(packages.VARIABLE, str(folder))
    assert api.check(spec).name == "own"
    monkeypatch.delenv(packages.VARIABLE)
    again()
    with pytest.raises(DiagnosticError):
        api.check(spec)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    file = tmp_path / "home/latentc/config.toml"
    file.write_text('components = ["mypkg"]')  # relative to the file
    again()
    assert api.check(spec).name == "own"


@pytest.mark.parametrize("text", ["components = 1", "components = [", "component = []", "components = [1]"])
def test_a_faulty_configuration(text: str, tmp_path: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "latentc/config.toml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(DiagnosticError, match="E0902") as caught:
        api.check(spec)
    assert str(file) in caught.value.diagnostics[0].message


def test_an_entry_point_names_a_package(tmp_path: Path, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "site/mypkg")
    info = tmp_path / "site/mypkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[latentc.components]\nmine = mypkg\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    again()
    assert api.check(spec).name == "own"
    components.use(tmp_path / "site/mypkg")  # the same package once more
    assert len(packages.own()) == 1
    (tmp_path / "site/mypkg/__init__.py").write_text("import nothing_of_this_name")
    del sys.modules["mypkg"]
    monkeypatch.setattr(packages, "_given", [])
    again()
    with pytest.raises(DiagnosticError, match="E0902") as caught:
        api.check(spec)
    assert "the entry point `mine` of mypkg" in caught.value.diagnostics[0].message


TRIES = [
    "components: [mypkg]",
    "components: mypkg",
    "extends: mypkg",
    "extends: mypkg/__init__.py",
    "backbone: {kind: mypkg}",
    "backbone: {kind: mypkg.norm}",
    "backbone: {kind: ../mypkg/norm}",
    "backbone: {kind: 'latentc.systems.nvg.sampler'}",
    "backbone: {block: {norm: {kind: my_norm}}}",
    "data: {kind: mypkg}",
    "train: {optimizer: {kind: mypkg}}",
    "!!python/module:mypkg {}",
    "name: !!python/object/apply:__import__ [mypkg]",
]


def test_a_spec_alone_loads_no_code(tmp_path: Path) -> None:
    """Not even from its own folder, in which Python looks for modules."""
    package(tmp_path / "mypkg", norm=f"{NORM}\nopen('pwned', 'w')\n")
    with (tmp_path / "mypkg/__init__.py").open("a") as file:
        file.write("open('pwned', 'w')\n")
    for number, text in enumerate(TRIES):
        (tmp_path / f"{number}.yaml").write_text(f"latentc: 1\nname: evil\nextends: digits_dit\n{text}\n")
    code = f"from latentc.cli import run; [run(['check', f'{{i}}.yaml']) for i in range({len(TRIES)})]"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.stderr.count("error[E0") >= len(TRIES), done.stderr
    assert not (tmp_path / "pwned").exists()
    subprocess.run(
        [sys.executable, "-m", "latentc", "check", "8.yaml", "--components", "mypkg"], cwd=tmp_path, timeout=300
    )
    assert (tmp_path / "pwned").exists(), "the same code does run if the user names its package"


def test_packages_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty/inner").mkdir(parents=True)
    (tmp_path / "empty/inner/__init__.py").touch()
    assert refused(tmp_path / "none").startswith("--components: no such folder")
    assert refused(tmp_path / "empty").endswith(f"has no `__init__.py` | give {tmp_path / 'empty/inner'}")
    assert "`inner` has no COMPONENTS" in refused(tmp_path / "empty/inner")
    assert "rename the folder" in refused(package(tmp_path / "my-pkg"))
    assert "name of another Python package, `yaml`" in refused(package(tmp_path / "yaml"))
    assert "not {folder: {kind: module}}" in refused(package(tmp_path / "p1", [1]))
    assert "did you mean `blocks/norms`?" in refused(package(tmp_path / "p2", {"blocks/norm": {}}))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"blocks/norms": {"my_norm": "nrm"}}, "cannot be imported: ModuleNotFoundError: No module named 'mypkg.nrm'"),
        ({"blocks/norms": {"my_nrm": "norm"}}, "`norm` defines no component of this kind | did you mean `my_norm`?"),
        ({"blocks/norms": {"layer_norm": "norm"}}, "layer_norm and mypkg.norm both claim the kind `layer_norm`"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, table: object, text: str) -> None:
    assert text in refused(package(tmp_path / "mypkg", table))


def test_a_spec_that_names_a_claimed_kind_of_the_core(tmp_path: Path) -> None:
    components.use(package(tmp_path / "mypkg", {"blocks/norms": {"layer_norm": "norm"}}))
    with pytest.raises(DiagnosticError, match="both claim the kind `layer_norm`"):
        api.check("digits_dit")


def test_two_packages_that_claim_a_kind(tmp_path: Path) -> None:
    components.use(package(tmp_path / "one"))
    assert "one.norm and two.norm both claim the kind `my_norm`" in refused(package(tmp_path / "two"))


def test_a_changed_package_is_compiled_again(tmp_path: Path, spec: Path) -> None:
    from latentc.api.unchanged import compile_key
    from latentc.spec import load_spec

    folder = package(tmp_path / "mypkg")
    components.use(folder)
    keys = {name: compile_key(load_spec(name), "", {}, {}) for name in (str(spec), "digits_dit")}
    with (folder / "norm.py").open("a") as file:
        file.write("# changed\n")
    assert compile_key(load_spec(spec), "", {}, {}) != keys[str(spec)] != ""
    assert compile_key(load_spec("digits_dit"), "", {}, {}) == keys["digits_dit"]


def test_bundles_and_projects_do_not_need_the_package(tmp_path: Path, spec: Path) -> None:
    folder = package(tmp_path / "mypkg")
    components.use(folder)
    api.emit(spec, tmp_path / "project")
    texts = [path.read_text(encoding="utf-8") for path in (tmp_path / "project").rglob("*.py")]
    assert texts and not any("mypkg" in text for text in texts)
    shutil.rmtree(folder)
    env = {**os.environ, "PYTHONPATH": ""}
    code = [sys.executable, "-c", "import model, objective, sampler"]
    done = subprocess.run(code, cwd=tmp_path / "project", env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
