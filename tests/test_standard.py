"""What the core keeps although hardly a spec sets it has a reason, and a test."""

from __future__ import annotations

import re
from fnmatch import filter as filter_names

import map as house
import systems_page


def test_kinds_that_no_spec_sets_are_listed_with_a_reason():
    """A new kind gets a line in a shipped spec, or a reason in the list; a kind that has neither goes."""
    assert list(house.unset_kinds()) == sorted(house.standard("kinds"))
    assert all(house.standard("kinds").values())


def test_kinds_that_no_spec_sets_are_tested_by_name():
    files = [path for path in (house.ROOT / "tests").rglob("*.py") if path.name != "test_standard.py"]
    words = {word for path in files for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    assert {name.rpartition("/")[2] for name in house.standard("kinds")} <= words


def test_recorded_results_and_measurements_of_these_kinds_exist():
    recorded = {path.stem.partition(".")[0] for path in systems_page.NUMBERS.glob("*.npz")}
    for kind, why in house.standard("kinds").items():
        assert set(re.findall(r"recorded results `(\w+)`", why)) <= recorded, kind


def test_standard_settings_are_fields_that_one_system_at_most_sets():
    """A setting that moves into a system, or that a second one sets, needs no reason any more."""
    lone = [name for name, of in house.settings().items() if len(of) < 2]
    assert [known for known in house.standard("settings") if not filter_names(lone, known)] == []
    assert all(house.standard("settings").values())
    assert [known for known in house.standard("settings") if "*" in known.partition(".")[2]] == [], "name the fields"


def test_a_setting_of_the_core_is_set_by_two_systems_or_standard():
    assert house.lone_fields() == {}, "move it into the system's folder, or list it among `settings` with a reason"


def test_a_field_that_nothing_sets_counts(monkeypatch):
    monkeypatch.setattr(house, "standard", lambda section: {})
    assert house.lone_fields()["Sgd.nesterov"] == "" and house.lone_fields()["Confidence.judged"] == "maskgit_r"


def test_the_core_names_nothing_of_one_paper():
    """No kind, class or package of a system, but words that mean something else as well."""
    assert house.private_names() == {}
    named = house.names_of_systems()
    for name, files in house.standard("names").items():
        assert all(filter_names(named.get(name, []), known) and why for known, why in files.items()), name


def test_a_kind_of_one_word_counts_where_a_text_quotes_it(monkeypatch, tmp_path):
    path = tmp_path / "core.py"
    path.write_text('message = "use the sampler `sliding`"\nsliding = "sliding"\n', encoding="utf-8")
    monkeypatch.setattr(house, "PACKAGE", tmp_path)
    monkeypatch.setattr(house, "sources", lambda *folders: [] if folders else [path])
    assert house.names_of_systems.__wrapped__() == {"sliding": ["core.py"]}
