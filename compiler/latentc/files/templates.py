"""Reads and fills in the files under templates/."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from latentc.files.shipped import folder

_REGION = re.compile(r"^ *# region (\w+)\n((?:(?! *# region).*\n)*?) *# endregion\n", re.MULTILINE)  # innermost


def template(name: str) -> str:
    """A file as it stands."""
    return (folder("templates") / name).read_text(encoding="utf-8")


def with_regions(text: str, kept: Collection[str]) -> str:
    """A template with the regions `kept` (`# region NAME` to `# endregion`), without their marks and all others."""
    before = ""
    while text != before:
        before, text = text, _REGION.sub(lambda found: found[2] if found[1] in kept else "", text)
    return text


def rendered(name: str, facts: Mapping[str, Any], trim: bool = True) -> str:
    """The file `name`.j2 filled in; values are escaped in HTML and SVG. `trim`: lines of statements leave no line."""
    environment = Environment(
        loader=FileSystemLoader(folder("templates")),
        undefined=StrictUndefined,
        autoescape=name.endswith((".html", ".svg")),
        keep_trailing_newline=True,
        trim_blocks=trim,
        lstrip_blocks=trim,
    )
    environment.filters |= {
        "figure": lambda value: "" if value is None else f"{value:.3g}",
        "markdown": as_markdown,
        "q": json.dumps,  # a string in protobuf's text form
    }
    return environment.get_template(f"{name}.j2").render(facts)


def as_markdown(text: str) -> str:
    """Text that Markdown shows as it is, whatever signs it holds."""
    return re.sub(r"([\\`*_\[\]<>&|])", r"\\\1", text)
