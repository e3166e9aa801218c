"""Weights that an earlier version of latentc saved under other names: `enc_0.1.conv0.weight`, now `enc.0.1…`."""

from __future__ import annotations

import re
from collections.abc import Collection

_NUMBERED = re.compile(r"_(\d+)\.")


def renamed(names: Collection[str], expected: Collection[str]) -> dict[str, str]:
    """{name in a file: present name} of tensors from when lists of levels were modules `down_1`, `down_2`, ….

    Their numbers began at 0 or 1; those of `down.0`, `down.1`, … begin at 0. Some modules have become `aux.0.conv`.
    """
    found = {name: match for name in names if name not in expected and (match := _NUMBERED.search(name))}
    numbers: dict[str, list[int]] = {}
    for name, match in found.items():
        numbers.setdefault(name[: match.start()], []).append(int(match[1]))
    result = {}
    for name, match in found.items():
        base, rest = name[: match.start()], name[match.end() :]
        place = f"{base}.{int(match[1]) - min(numbers[base])}"
        present = next((n for n in (f"{place}.{rest}", f"{place}.conv.{rest}") if n in expected), None)
        if present is not None and present not in names:
            result[name] = present
    return result
