"""ImageNet as it is distributed."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Pictures
from latentc.components.fields import DataPath


class ImageNet(Pictures):
    """ImageNet (ILSVRC 2012) in its own layout, labelled in sorted synset order like published checkpoints.

    Finds train/n01440764/*.JPEG, ILSVRC/Data/CLS-LOC/train, and val with folders or its list of labels. Names come from
    LOC_synset_mapping.txt, synset_words.txt or the development kit.
    """

    kind: Literal["imagenet"]
    path: DataPath = Field("data/imagenet", description="folder that contains `train` and `val`")
    part: Literal["train", "val"] = Field("train", description="training or validation images")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "imagenet", "classes": 4, "shape": [3, 16, 16]}

    def held_out(self) -> ImageNet:
        """The validation images."""
        return self.model_copy(update={"part": "val"})
