"""Plain functions and classes that emitted files define where they use them: those of templates/project/helpers.py."""

from __future__ import annotations

import ast
from collections.abc import Collection

from latentc.files.templates import template


def _definitions() -> dict[str, str]:
    """{name: text} of the definitions, in the order of the file."""
    text = template("project/helpers.py")
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(lines[first - 1 : node.end_lineno]) + "\n"
    return found


HELPERS = _definitions()


def helper_source(names: Collection[str]) -> str:
    """Definitions of the helpers, in the order of their file."""
    return "\n\n".join(text for name, text in HELPERS.items() if name in names)
