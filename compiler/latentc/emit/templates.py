"""The files under templates/project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from latentc.resources import folder


def template(name: str) -> str:
    """A file as it stands."""
    return (folder("templates") / "project" / name).read_text(encoding="utf-8")


def rendered(name: str, facts: Mapping[str, Any]) -> str:
    """The file `name`.j2 filled in."""
    environment = Environment(
        loader=FileSystemLoader(folder("templates") / "project"),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters["markdown"] = as_markdown
    return environment.get_template(f"{name}.j2").render(facts)


def as_markdown(text: str) -> str:
    """Text that Markdown shows as it is, whatever signs it holds."""
    return re.sub(r"([\\`*_\[\]<>&|])", r"\\\1", text)
