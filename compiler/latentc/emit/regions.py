"""Regions of the project's templates that only some projects have: `# region NAME` to `# endregion`."""

from __future__ import annotations

import re
from collections.abc import Collection

_REGION = re.compile(r"^ *# region (\w+)\n(.*?)^ *# endregion\n", re.MULTILINE | re.DOTALL)


def with_regions(text: str, kept: Collection[str]) -> str:
    """The text with the regions `kept`, without their marks, and without all others."""
    return _REGION.sub(lambda found: found[2] if found[1] in kept else "", text)
