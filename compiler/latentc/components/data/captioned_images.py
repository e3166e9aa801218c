"""Images with captions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.dataset import CaptionedPictures
from latentc.components.fields import DataPath
from latentc.components.parts import Problem, Spec


class Columns(Closed):
    """Names of the columns of a table of captions."""

    image: str | None = Field(None, description="image files; null: image, file_name, image_id or ImageID")
    caption: str | None = Field(None, description="captions; null: caption or text")


class CaptionedImages(CaptionedPictures):
    """Images anywhere in a folder, and a file of captions: COCO's captions_train2017.json, or a .csv, .tsv or .jsonl
    file with an image and a caption per row (Open Images' narratives).

    The one field of text is the caption, as tokens; the field NAME_mask, if present, marks those that count.
    """

    kind: Literal["captioned_images"]
    path: DataPath = Field("data/train", description="folder of images")
    captions: str = Field("data/captions.json", description="file of captions")
    keys: Columns = Field(default_factory=lambda: Columns(), description="columns of the file of captions")
    per_image: int = Field(
        1,
        gt=0,
        le=1_024,
        description="captions of an image, in the file's order, with each of which it is a sample (COCO has 5); a "
        "first stage encodes it once",
    )
    horizontal_flip: bool = Field(False, description="mirror images at random with probability 1/2")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "captioned_images",
        "shape": [3, 16, 16],
        "fields": {"caption": {"shape": [8], "classes": 256, "medium": "text", "end": 0}},
    }

    def settings(self, also: Collection[str] | None = None) -> dict[str, Any]:
        found = super().settings(also)
        return {**found, "keys": {name: key for name, key in found["keys"].items() if key is not None}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        texts = [name for name, field in self.fields.items() if field.medium == "text"]
        if len(texts) != 1:
            what = f"{len(texts)} fields of text" if texts else "no field of text"
            mend = "add `fields: {caption: {shape: [L], classes: VOCABULARY, medium: text, …}}`"
            yield Problem(("fields",), f"a sample has one caption, and the data {what}", mend)
        if self.classes:
            yield Problem(("classes",), "captioned images have no labels", "leave `classes` out")
