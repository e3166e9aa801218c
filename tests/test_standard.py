"""What the core keeps although hardly a spec sets it has a reason, and a test."""

from __future__ import annotations

import re

import map as house
import pytest
import systems_page


def test_kinds_that_no_spec_sets_are_listed_with_a_reason():
    """A new kind gets a line in a shipped spec, or a reason in the list; a kind that has neither goes."""
    assert list(house.unset_kinds()) == sorted(house.standard("kinds"))
    assert all(house.standard("kinds").values())


def test_kinds_that_no_spec_sets_are_tested_by_name():
    files = [path for path in (house.ROOT / "tests").rglob("*.py") if path.name != "test_standard.py"]
    tests = "\n".join(path.read_text(encoding="utf-8") for path in files)
    kinds = [name.rpartition("/")[2] for name in house.standard("kinds")]
    assert [kind for kind in kinds if not re.search(rf"\b{kind}\b", tests)] == []


def test_recorded_results_and_measurements_of_these_kinds_exist():
    recorded = {path.stem.partition(".")[0] for path in systems_page.NUMBERS.glob("*.npz")}
    for kind, why in house.standard("kinds").items():
        assert set(re.findall(r"recorded results `(\w+)`", why)) <= recorded, kind


def test_standard_settings_are_fields_of_the_core():
    """A setting that moves into a system is one no longer."""
    classes = {
        cls.__name__: cls
        for module in house.component_modules()
        for cls in vars(module).values()
        if isinstance(cls, type) and cls.__module__.startswith("latentc.components")
    }
    for setting, why in house.standard("settings").items():
        cls, _, field = setting.partition(".")
        assert cls in classes and field in classes[cls].model_fields, f"{setting} is no field of the core"
        assert why


@pytest.fixture
def remaining(request):
    """What is left to be moved into systems; `--bless` takes off what has been."""
    if request.config.getoption("--bless"):
        left = {*house.lone_fields(), *house.private_names()}
        lines = house.STANDARD.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith("  - ") or line.removeprefix("  - ").strip() in left]
        house.STANDARD.write_text("".join(kept), encoding="utf-8")
        house.standard.cache_clear()
    return set(house.standard("remaining") or ())


def test_a_setting_of_the_core_is_set_by_two_systems_or_standard(remaining):
    new = [f"{field}: {system}" for field, system in house.lone_fields().items() if field not in remaining]
    assert new == [], "move it into the system's folder, or list it among `settings` with a reason"


def test_the_core_names_nothing_of_one_paper(remaining):
    """No kind, class or package of a system, but words that mean something else as well."""
    named = house.private_names()
    assert {
        name: files for name, files in named.items() if name not in remaining | house.standard("names").keys()
    } == {}
    assert house.standard("names").keys() <= named.keys() and all(house.standard("names").values())


def test_what_remains_only_gets_less(remaining):
    assert remaining - {*house.lone_fields(), *house.private_names()} == set(), "moved: run pytest --bless"
