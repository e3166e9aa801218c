"""Images in two folders, without pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Data
from latentc.components.fields import DataPath, Field
from latentc.components.parts import Problem, Spec


class UnpairedFolders(Data):
    """Images in one folder as `x` and, at random, in another as `image`, as CycleGAN's data are laid out.

    Both are folders in `path`, so two classes of a folder with a sub-folder per class can be given as well. Images are
    cropped to the centre square and resized.
    """

    kind: Literal["unpaired_folders"]
    path: DataPath = Option("data/train", description="the folder that holds both")
    source: DataPath = Option("trainA", description="folder below `path` of the images `image`, such as `benign`")
    target: DataPath = Option("trainB", description="folder below `path` of the images `x`, such as `malignant`")
    horizontal_flip: bool = Option(True, description="mirror images at random with probability 1/2")
    first_stage: None = Option(None, description="always null: there is none for two sets of images")
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10",)
    HOLDS: ClassVar[str] = "square images `x` and `image`"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "unpaired_folders", "shape": [3, 16, 16]}

    @property
    def fields(self) -> dict[str, Field]:
        """`x` and `image`."""
        found = super().fields
        return {"image": found["x"], **found} if "x" in found else found

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        return name in ("x", "image") and field.medium == "image" and field.size("height") == field.size("width")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.source == self.target:
            yield Problem(("source",), f"`source` and `target` are both `{self.target}`", "give two folders")
