"""Base class of data sets."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field as Option
from pydantic import model_validator

from latentc.components import Closed
from latentc.components.condition import searches
from latentc.components.fields import (
    FIRST_STAGE,
    MOST_TOKENS,
    AxisName,
    ClassNames,
    Field,
    FirstStage,
    Medium,
    Size,
    Tokens,
)
from latentc.components.parts import Fraction, Part, Problem, Spec

Augmentation = Literal["mirror", "upside_down", "scale", "rotation", "stretch", "shift"]
# Kinds and their numbers of labels, as in latentc.datasets.augment.
AUGMENTATIONS: dict[Augmentation, int] = {"mirror": 1, "upside_down": 1, "scale": 1}
AUGMENTATIONS |= {"rotation": 2, "stretch": 2, "shift": 2}


ALWAYS_READ = ("x", "tokens", "y", "augment")
"""The fields that readers return even if training does not read them: `latentc evaluate` compares their values."""


class Data(Part):
    """A data set. `fields` are all arrays of a sample by name: `x` or `tokens` is modelled, `y` is the label.

    `shape`, `tokens`, `classes` and `class_names` are short for these fields. If `fields` declares them instead, the
    properties of these names return the same.
    """

    classes_: int = Option(
        0, alias="classes", ge=0, le=16_777_216, description="number of classes, labelled from 0; 0: unlabelled"
    )
    class_names_: ClassNames | None = Option(
        None,
        alias="class_names",
        description="names of the classes in order, or a text file with one name per line, relative to the spec; "
        "null: those stored in the data",
    )
    shape_: tuple[Size, ...] | None = Option(
        None,
        alias="shape",
        max_length=8,
        description="shorthand for `fields: {x: {shape: …}}`; [C, H, W] with 1 or 3 channels is an image",
    )
    tokens_: Tokens | None = Option(
        None, alias="tokens", description="shorthand for `fields: {tokens: …}`, instead of `shape`"
    )
    fields_: dict[AxisName, Field] = Option(
        default_factory=dict, alias="fields", description="arrays of a sample, by name"
    )
    first_stage: FirstStage | None = Option(
        None, description="an autoencoder that encodes images as the latents or tokens that the network models"
    )

    @property
    def drawn_fields(self) -> frozenset[str]:
        """Fields that say what reading changed at random; no file holds them."""
        return frozenset()

    judged_by: ClassVar[str] = "principal"  # features that `latentc evaluate` uses by default
    requires: ClassVar[tuple[str, ...]] = ()  # packages that reading needs besides numpy
    adds_noise: ClassVar[bool] = False  # reading adds the noise that a field declares
    holds_images: ClassVar[bool] = False  # a first stage encodes them; other data holds codes already
    HOLDS: ClassVar[str] = "an array for each field"  # what a sample can consist of, for messages

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of `x`; None if there is no such field."""
        return self.fields_["x"].shape if self.shape_ is None and "x" in self.fields_ else self.shape_

    @property
    def tokens(self) -> Tokens | None:
        """The vocabulary and the grid of `tokens`; None if there is no such field."""
        if self.tokens_ is not None or (codes := self.fields_.get("tokens")) is None:
            return self.tokens_
        count, grid = codes.classes or 0, codes.grid or codes.shape or (1,)
        return Tokens(vocabulary=count, grid=grid) if count > 1 and math.prod(grid) <= MOST_TOKENS else None

    @property
    def classes(self) -> int:
        """The number of classes of the label `y`; 0 if there is no label."""
        label = self.fields_.get("y")
        return self.classes_ or (label.classes or 0 if label is not None and label.shape == () else 0)

    @property
    def class_names(self) -> ClassNames | None:
        """The names of the classes of the label `y`, or the file that has them."""
        label = self.fields_.get("y")
        return label.class_names if self.class_names_ is None and label is not None else self.class_names_

    @property
    def fields(self) -> dict[str, Field]:
        """All fields of a sample by name, those of the short forms included."""
        found: dict[str, Field] = {}
        if self.shape is not None:
            found["x"] = self._array(self.shape)
        if self.tokens is not None:
            grid, pixels = self.tokens.grid, self.first_stage is None and len(self.tokens.grid) == 2
            medium: Medium = "image" if pixels else "array"
            shape = (self.tokens.length,)
            found["tokens"] = Field(shape=shape, classes=self.tokens.vocabulary, grid=grid, medium=medium)
        if self.classes:
            found["y"] = Field(classes=self.classes)
        found |= self.fields_
        if "x" in self.fields_ and "medium" not in self.fields_["x"].model_fields_set:
            found["x"] = self._like_short_form(self.fields_["x"])
        if "y" in found and self.class_names is not None:
            found["y"] = found["y"].model_copy(update={"class_names": self.class_names})
        return found

    @property
    def modelled(self) -> Field:
        """The field that the network models: `x` or `tokens`."""
        return self.fields["x"] if "x" in self.fields else self.fields["tokens"]

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        """True if data of this kind can hold the field `name` of a sample's `fields`.

        `encoded`: a first stage encodes the images that the data holds.
        """
        return not field.resized

    def settings(self, also: Collection[str] | None = None) -> dict[str, Any]:
        """Settings of the reader in `latentc.datasets`, as config.yaml of a project holds them.

        They have neither class names nor fields that networks compute. `also`: the fields that are read beside the
        sample, its label and its augmentation; None: all.
        """
        without = {"class_names"}
        wanted = self.fields if also is None else {*ALWAYS_READ, *also}
        drawn = self.drawn_fields - {*ALWAYS_READ}
        read = {n: f for n, f in self.fields.items() if f.encoded_by is None and n in wanted and n not in drawn}
        fields = {n: f.model_dump(mode="json", exclude_none=True, exclude=without) for n, f in read.items()}
        own = self.model_dump(mode="json", by_alias=True, exclude={"class_names_", "shape_", "tokens_"})
        return {**own, "classes": self.classes, "fields": fields}

    @classmethod
    def at(cls, path: Path, field: Mapping[str, Any]) -> Data | None:
        """Data of this kind in a folder, for samples like `field` (shape, axes, medium); None if it holds none."""
        return None

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The shift subtracted from latents of the first stage and the factor after it, per channel or for all."""
        stage = self.first_stage
        return ((0.0,), (1.0,)) if stage is None else stage.normalisation

    def held_out(self) -> Data:
        """Data to judge samples by: what training does not see, if it is known; else the data themselves."""
        return self

    @property
    def words(self) -> str:
        """The modelled field in words, for messages."""
        if self.shape is not None:
            return f"arrays {list(self.shape)}"
        return "tokens" if self.tokens is not None else "neither `x` nor `tokens`"

    def _array(self, shape: tuple[int, ...]) -> Field:
        """The field `x` of the short form: an image if it has the shape of one and no first stage made it."""
        pixels = self.first_stage is None and len(shape) == 3 and shape[0] in (1, 3)
        return Field(shape=shape, medium="image" if pixels else "array")

    def _like_short_form(self, x: Field) -> Field:
        """The declared field with the medium that the short form `shape` would give it."""
        usual = self._array(x.shape)
        if usual.medium == "array" or (x.model_fields_set & {"grid", "axes"}):
            return x
        given = {key: getattr(x, key) for key in x.model_fields_set}
        return Field(**{"medium": usual.medium, "rate": usual.rate, **given})

    def _problems_of_resized(self, name: str, field: Field) -> Iterator[Problem]:
        place = ("fields", name, "resized")
        if not self.holds_images or self.first_stage is None or self.tokens is not None:
            message = (
                f"field `{name}` holds latents of the images, but data of kind `{self.kind}` cannot encode them here"
            )
            yield Problem(place, message, "use a folder of images with a `first_stage` of latents, or leave it out")
        elif self.shape is None or len(field.shape) != 3 or field.shape[0] != self.shape[0]:
            yield Problem(
                place,
                f"field `{name}` must hold latents [C, h, w] with as many channels as the sample",
                "give it such a shape",
            )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        for name, numbers in zip(("shift", "scale"), self.normalisation, strict=True):
            if self.first_stage is not None and len(numbers) not in (1, *(self.shape or ())[:1]):
                message = f"{len(numbers)} numbers, but the latents are {self.words}"
                yield Problem((FIRST_STAGE, name), message, "give one for each channel, or one for all")
        for name, field in self.fields.items():
            for key, message, mend in field.faults():
                short = name not in self.fields_ or (key == "class_names" and self.class_names_ is not None)
                yield Problem((key,) if short else ("fields", name, key), message, mend)
            if field.noise is not None and not self.adds_noise:
                mend = "use `npz` or `npy_folder`, or leave it out"
                yield Problem(("fields", name, "noise"), f"data of kind `{self.kind}` cannot have noise", mend)
            if field.resized:
                yield from self._problems_of_resized(name, field)
        names = self.fields_["y"].class_names if "y" in self.fields_ else None
        if names is not None and self.class_names_ not in (None, names):
            message = "`class_names` and `fields.y.class_names` differ"
            yield Problem(("fields", "y", "class_names"), message, "keep only one of them")
        if self.class_names is not None and "y" not in self.fields:
            yield Problem(("class_names",), "class names, but the data has no classes", "add `classes:`, their number")
        tokens = (self.tokens.length,) if self.tokens is not None else None
        for name, key, shape in (("x", "shape", self.shape), ("tokens", "tokens", tokens)):
            if shape is not None and name in self.fields_ and shape != (declared := self.fields_[name].shape):
                message = f"`{key}` says {list(shape)}, but `fields.{name}` says {list(declared)}"
                yield Problem(("fields", name, "shape"), message, "keep one of them")
        if (label := self.fields_.get("y")) and self.classes_ and label.classes not in (None, self.classes_):
            message = f"`classes` is {self.classes_}, but `fields.y` has {label.classes} classes"
            yield Problem(("fields", "y", "classes"), message, "keep one of them")


class Images(Data):
    """Data whose images can be mirrored or augmented in training."""

    horizontal_flip: bool = Option(
        False, description="mirror images at random with probability 1/2, besides what `augment` does"
    )
    augment: float = Option(
        0,
        ge=0,
        le=1,
        description="probability of each geometric augmentation of EDM (0.12 there), except mirroring, which has 1/2; "
        "adds the augmentation parameters as field `augment`; 0: none",
    )
    augmentations: tuple[Augmentation, ...] = Option(
        tuple(AUGMENTATIONS),
        min_length=1,
        description="which augmentations, in any order; `rotation`, `stretch` and `shift` have two parameters each, "
        "the others one, in the order of the default",
    )

    @property
    def fields(self) -> dict[str, Field]:
        """All fields of a sample, `augment` included."""
        found = super().fields
        count = sum(AUGMENTATIONS[kind] for kind in self.augmentations)
        return found | {"augment": Field(shape=(count,))} if self.augment else found

    @property
    def drawn_fields(self) -> frozenset[str]:
        return frozenset({"augment"} if self.augment else ())

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        x = self.fields.get("x")
        if self.augment and (x is None or x.medium != "image" or "channel" not in x.axes):
            yield Problem(("augment",), "only images can be augmented", "leave `augment` out")
        for i, kind in enumerate(self.augmentations):
            if kind in self.augmentations[:i]:
                yield Problem(("augmentations", i), f"`{kind}` is given twice", "leave one of them out")
        if self.augmentations != tuple(AUGMENTATIONS) and not self.augment:
            message = "`augmentations` names which are applied, but `augment` is 0, so none is"
            yield Problem(("augmentations",), message, "set `augment` to their probability, or leave this out")


class RandAugment(Closed):
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719) with timm's operations that grow with the magnitude."""

    operations: int = Option(2, gt=0, le=100, description="operations per image, drawn from 15")
    magnitude: float = Option(9.0, ge=0, le=10, description="mean magnitude, of 10")
    deviation: float = Option(0.5, ge=0, le=10, description="standard deviation of the magnitude")
    probability: Fraction = Option(0.5, description="probability that an operation is applied")


class Views(Closed):
    """Random crops, operations and mixtures. A first stage encodes the images in every step, without a cache."""

    crop: tuple[Fraction, Fraction] | None = Option(
        None,
        description="share of an image's area that a random crop has, with an aspect ratio of 3/4 to 4/3, such as "
        "[0.2, 1.0]; null: the centre square",
    )
    fit: Literal["redrawn", "clamped"] = Option(
        "redrawn", description="crops larger than the image are drawn again (timm), or cut off at its borders (MAE)"
    )
    rand_augment: RandAugment | None = Option(None, description="random operations on each image; null: none")
    mixup: float = Option(
        0.0,
        ge=0,
        le=100,
        description="parameter of the beta distribution of the shares in sums of two images of a batch and of their "
        "labels; 0: none",
    )
    cutmix: float = Option(
        0.0,
        ge=0,
        le=100,
        description="the same for images that contain a rectangle of another; with `mixup` each has probability 1/2; "
        "0: none",
    )

    @property
    def mixes(self) -> bool:
        """Whether images and labels are mixed."""
        return self.mixup > 0 or self.cutmix > 0


class Pictures(Images):
    """Data whose samples are image files of any size; a first stage can encode them."""

    horizontal_flip: bool = Option(
        True,
        description="mirror images at random with probability 1/2, besides what `augment` does; by default false if "
        "`augment` mirrors them",
    )
    damaged: Literal["refuse", "skip"] = Option(
        "refuse",
        description="images that cannot be read: `refuse` ends training before its first step and names them; `skip` "
        "counts them and reads the next image in their place",
    )
    crops: Literal["center", "ten"] = Option(
        "center", description="crops that a first stage encodes: the centre square, or ten crops at 1.1 times the side"
    )
    views: Views | None = Option(
        None,
        description="random crops, operations and mixtures of the images, anew each time that training reads them; "
        "adds the fields `y_other` and `y_share` if images are mixed; null: none",
    )
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10",)
    holds_images: ClassVar[bool] = True
    HOLDS: ClassVar[str] = "square images `x`, which a first stage can encode, and labels `y`"

    @model_validator(mode="before")
    @classmethod
    def _mirrored_once(cls, data: Any) -> Any:
        """Leaves mirroring to the augmentations, which pass it to the network, unless both are asked for."""
        kinds = (
            data.get("augmentations", tuple(AUGMENTATIONS)) if isinstance(data, dict) and data.get("augment") else ()
        )
        return {"horizontal_flip": False, **data} if isinstance(kinds, list | tuple) and "mirror" in kinds else data

    @property
    def fields(self) -> dict[str, Field]:
        """All fields of a sample; of mixed images also the label of the other one and the share of the own one."""
        found = super().fields
        if self.views is None or not self.views.mixes:
            return found
        return found | {"y_other": Field(classes=self.classes or None), "y_share": Field()}

    @property
    def drawn_fields(self) -> frozenset[str]:
        mixed = self.views is not None and self.views.mixes
        return super().drawn_fields | ({"y_other", "y_share"} if mixed else set())

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        computed = [name for name, field in self.fields_.items() if field.encoded_by is not None or field.resized]
        computed += [*searches(spec)]
        if self.damaged == "skip" and computed:
            message = f"`{computed[0]}` is computed once per image, so damaged images cannot be skipped"
            yield Problem(("damaged",), message, f"use `damaged: refuse`, or leave out `{computed[0]}`")
        if self.views is None:
            return
        if self.views.crop is not None and not 0 < self.views.crop[0] <= self.views.crop[1]:
            message = f"`crop: {list(self.views.crop)}` is not a range of shares of the area, from above 0 up"
            yield Problem(("views", "crop"), message, "give [low, high], such as [0.2, 1.0]")
        if self.views.crop is None and self.views.fit != "redrawn":
            yield Problem(("views", "fit"), "`fit` has no effect without random crops", "set `crop`, or leave it out")
        if self.views.crop is None and self.views.rand_augment is None and not self.views.mixes:
            message = "`views` changes no image: it has neither `crop` nor `rand_augment`, `mixup` or `cutmix`"
            yield Problem(("views",), message, "set one of them, or leave `views` out")
        if self.views.mixes and not self.classes:
            yield Problem(("views",), "mixed images need labels, but the data has none", "add `data.classes`")
        if self.first_stage is not None and self.crops != "center":
            message = "crops are drawn in every step, so there are no ten to encode"
            yield Problem(("crops",), message, "leave out `crops`, or `views`")
        if computed:
            message = f"`{computed[0]}` is computed once per image, but images change in every step"
            yield Problem(("views",), message, f"leave out `views`, or `{computed[0]}`")

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        if name == "y":
            return field.is_label
        if encoded:
            return name in ("x", "tokens") or bool(field.resized)
        return name == "x" and field.medium == "image" and field.size("height") == field.size("width")


class CaptionedPictures(Pictures):
    """Pictures with texts, as tokens; the field NAME_mask, if present, marks those that count."""

    HOLDS: ClassVar[str] = f"{Pictures.HOLDS}, and texts with their masks"

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        text = fields.get(name.removesuffix("_mask")) if field.dtype == "bool" else field
        if text is not None and text.medium == "text" and name not in ALWAYS_READ:
            return True
        return super().provides(name, field, fields, encoded)
