"""Plain data → YAML text that `load_yaml` reads back to the same data.

PyYAML's own writer follows YAML 1.1: it would write the text `1e-4` without quotes, which here is a number.
"""

from __future__ import annotations

import math
import re
from typing import Any

from latentc.spec.yaml import plain_scalar

_WIDTH = 110
# Texts that need no quotes: no indicator at the start, no `: ` or ` #` inside.
_PLAIN = re.compile(r"[A-Za-z_/.0-9][A-Za-z0-9_/.+@%()= -]*")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def yaml_from_data(data: Any) -> str:
    """YAML text of dicts, lists, texts, numbers, booleans and None; short collections on one line."""
    return "".join(f"{line}\n" for line in _block(data, 0))


def _block(data: Any, indent: int) -> list[str]:
    pad = " " * indent
    if not data or not isinstance(data, dict | list):
        return [pad + _flow(data)]
    if isinstance(data, list):
        lines: list[str] = []
        for item in data:
            inner = _block(item, indent + 2)
            lines += [f"{pad}- {inner[0][indent + 2 :]}", *inner[1:]] if len(inner) > 1 else [f"{pad}- {_flow(item)}"]
        return lines
    lines = []
    for key, value in data.items():
        head = f"{pad}{_scalar(str(key))}:"
        line = f"{head} {_flow(value)}"
        nested = isinstance(value, dict | list) and bool(value)
        # Mappings at the top level become blocks; below that, whatever fits on one line stays on it.
        if nested and (len(line) > _WIDTH or (indent == 0 and isinstance(value, dict))):
            lines += [head, *_block(value, indent + 2)]
        else:
            lines.append(line)
    return lines


def _flow(data: Any) -> str:
    if isinstance(data, dict):
        return "{" + ", ".join(f"{_scalar(str(key))}: {_flow(value)}" for key, value in data.items()) + "}"
    if isinstance(data, list | tuple):
        return "[" + ", ".join(_flow(item) for item in data) + "]"
    return _scalar(data)


def _scalar(data: Any) -> str:
    if data is None:
        return "null"
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, float) and not math.isfinite(data):
        return ".nan" if math.isnan(data) else ".inf" if data > 0 else "-.inf"
    if isinstance(data, int | float):
        return repr(data)
    if _is_plain(data):
        return data
    plain = data.isprintable() and '"' not in data and "\\" not in data
    return f'"{data}"' if plain else '"' + "".join(map(_escaped, data)) + '"'


def _is_plain(text: str) -> bool:
    if not _PLAIN.fullmatch(text) or text.endswith(" ") or text.startswith(("---", "...")):
        return False
    try:
        return plain_scalar(text) == text
    except OverflowError:
        return False


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
