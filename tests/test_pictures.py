"""The pictures of docs/architecture.md show the code as it is."""

from __future__ import annotations

import re

import map as house
import pictures


def texts(name: str) -> set[str]:
    """The texts of a picture."""
    return set(re.findall(r">([^<]+)</text>", (pictures.IMAGES / f"{name}.svg").read_text(encoding="utf-8")))


def test_the_pictures_show_every_layer_and_capability(request):
    """Sizes may be those of an earlier day: `pytest tests/test_pictures.py --bless` draws the pictures anew."""
    if request.config.getoption("--bless"):
        pictures.draw()
    shown = {name for layer in pictures.layers() for name in layer}
    assert shown == set(pictures.ROLES), "each layer has a few words in ROLES"
    assert shown <= texts("house")
    assert set(house.core_capabilities()) <= texts("capabilities")


def test_lists_of_kinds_say_how_many_are_left_out():
    assert pictures._some(["a", "b"]) == "a, b"
    assert pictures._some(["long_name"] * 20, 30) == "long_name and 19 more"
