"""Base class of first stages."""

from __future__ import annotations

from typing import ClassVar

from latentc.components import Component


class FirstStage(Component):
    """Encodes images as the field `encodes_to` that a network models (`x` or `tokens`), and decodes it."""

    encodes_to: ClassVar[str]
