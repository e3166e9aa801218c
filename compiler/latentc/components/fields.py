"""The fields of a data set: named arrays with a shape of any rank, named axes and a medium; and its first stage.

The first stage is an autoencoder with a spec of its own, which turns images into latents or tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, field_validator
from pydantic import Field as Option

from latentc.components.component import Closed
from latentc.ir.types import TensorType
from latentc_runtime.class_names import LONGEST, is_name
from latentc_runtime.cleaning import Cleaning

MOST_TOKENS = 16_777_216  # of one sample
Size = Annotated[int, Option(gt=0, le=MOST_TOKENS)]
AxisName = Annotated[str, Option(pattern=r"^[a-z][a-z0-9_]{0,31}$")]


def _named(path: str) -> str:
    if not path:
        raise ValueError("the path of the data is empty: name the file or folder that holds the data")
    return path


DataPath = Annotated[str, AfterValidator(_named)]
ClassNames = tuple[str, ...] | str
TEXT = ("tokenizer", "alphabet", "start", "end", "cleaning")  # the keys that turn tokens into text
MOST_ELEMENTS = 2**31  # of one sample
Medium = Literal["image", "video", "audio", "points", "text", "array"]

# Per medium: axes a field must have, axes it may also have, and the axes of a field that names none, by rank.
_AXES: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[int, tuple[str, ...]]]] = {
    "image": (("height", "width"), ("channel",), {2: ("height", "width"), 3: ("channel", "height", "width")}),
    "video": (
        ("frame", "height", "width"),
        ("channel",),
        {3: ("frame", "height", "width"), 4: ("frame", "channel", "height", "width")},
    ),
    "audio": (("time",), ("channel",), {1: ("time",), 2: ("channel", "time")}),
    "points": (("point", "coordinate"), (), {2: ("point", "coordinate")}),
    "text": (("token",), (), {1: ("token",)}),
}
_RANGES = {"image": (-1.0, 1.0), "video": (-1.0, 1.0), "audio": (-1.0, 1.0)}
_GRIDS = {"image": 2, "video": 3}  # rank of the grid that the tokens of a medium fill


@lru_cache(maxsize=16)
def _nameless(names: tuple[str, ...]) -> int | None:
    """The first class whose name is none; most specs have the same thousand names."""
    return next((number for number, name in enumerate(names) if not is_name(name)), None)


class Field(Closed):
    """One named array of a data set; shapes are per sample.

    A field with `classes` holds integers in [0, classes): labels, tokens or grey levels. Any other holds numbers.
    """

    SEVERAL_LINES: ClassVar[tuple[str, ...]] = ("alphabet",)

    shape: tuple[Size, ...] = Option((), max_length=8, description="shape of one sample; [] for a single number")
    dtype: Literal["f32", "i64", "bool"] = Option(
        "f32", description="element type; i64 if `classes` is given, else f32"
    )
    axes: tuple[AxisName, ...] = Option(
        (), description="names of the axes of `shape`; by default those usual for the medium, or axis_0, axis_1, …"
    )
    medium: Medium = Option("array", description="how samples are written and displayed")
    range: tuple[float, float] | None = Option(
        None,
        description="values of black and white, or full scale; [-1, 1] for image, video and audio",
    )
    classes: int | None = Option(
        None, gt=0, le=16_777_216, description="number of integer values: classes, or vocabulary size"
    )
    class_names: ClassNames | None = Option(
        None, description="names of the classes in order, or a text file with one name per line, relative to the spec"
    )
    rate: float | None = Option(None, gt=0, description="samples per second (audio) or frames per second (video)")
    noise: float | None = Option(
        None, gt=0, description="standard deviation of Gaussian noise added whenever training reads it; null: none"
    )
    resized: bool | None = Option(
        None,
        description="latents of a smaller version of the image, resized bicubically before the first stage encodes "
        "it; `shape` sets the size (Hi-MAR's pivots)",
    )
    encoded_by: str | None = Option(
        None,
        description="one of `networks`, frozen, which computes the field from the samples once, before training; null: "
        "the data holds it",
    )
    grid: tuple[Size, ...] | None = Option(
        None,
        max_length=8,
        description="grid that tokens fill row by row: [rows, columns], or [frames, rows, columns]",
    )
    alphabet: str | None = Option(
        None, min_length=2, description="text: the character of each token; null: tokens are UTF-8 bytes"
    )
    tokenizer: str | None = Option(
        None,
        description="text: a tokenizer.json as written by Hugging Face libraries; relative to the working directory, "
        "or in a project to the project",
    )
    start: int | None = Option(None, ge=0, le=16_777_215, description="text: the token that begins a text; null: none")
    end: int | None = Option(
        None, ge=0, le=16_777_215, description="text: token that ends a text, also used as padding"
    )

    cleaning: Cleaning | None = Option(
        None,
        description="text: what is done to a text before it becomes tokens; captions: as DeepFloyd IF, PixArt and "
        "LlamaGen clean captions from the web (links, markup, names of files; needs ftfy), lower: lower case without "
        "spaces at the ends, null: nothing",
    )

    def model_post_init(self, context: Any) -> None:
        """Fill in the defaults that depend on the rest."""
        given, filled = self.model_fields_set, self.__dict__  # the only place that changes a frozen model
        if "dtype" not in given and self.classes is not None:
            filled["dtype"] = "i64"
        if "axes" not in given:
            usual = _AXES[self.medium][2] if self.medium in _AXES else {}
            if self.grid is not None:
                usual = {1: ("token",)}
            rank = len(self.shape)
            filled["axes"] = usual.get(rank, tuple(f"axis_{i}" for i in range(rank)))
        if "range" not in given and self.classes is None:
            filled["range"] = _RANGES.get(self.medium)

    @property
    def text(self) -> dict[str, Any]:
        """Arguments of the runtime's `Condition` for tokens of text."""
        return {key: getattr(self, key) for key in ("medium", *TEXT)} if self.medium == "text" else {}

    @property
    def is_label(self) -> bool:
        """True for one class number per sample."""
        return self.shape == () and self.classes is not None

    def size(self, axis: str) -> int:
        """Length of the axis of that name; 1 if there is none."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    def faults(self) -> Iterator[tuple[str, str, str | None]]:
        """Contradictions between its keys, each as (key, message, help)."""
        if len(self.axes) != len(self.shape):
            yield "axes", f"{len(self.axes)} axes are named, but the shape has rank {len(self.shape)}", None
        elif math.prod(self.shape) > MOST_ELEMENTS:
            message = f"a sample of shape {list(self.shape)} has {math.prod(self.shape)} elements, more than 2^31"
            yield "shape", message, None
        elif len(set(self.axes)) < len(self.axes):
            yield "axes", "two axes have the same name", None
        elif self.grid is None and self.medium in _AXES:
            yield from self._medium_faults()
        if self.grid is not None:
            yield from self._grid_faults()
        yield from self._name_faults()
        if self.noise is not None and self.dtype != "f32":
            yield "noise", "noise cannot be added to integers", "leave `noise` out"
        if self.classes is not None and self.dtype != "i64":
            yield "dtype", "a field with `classes` must hold integers", "leave `dtype` out"
        if self.range is not None and not self.range[0] < self.range[1]:
            yield "range", f"range {list(self.range)} is empty", "give [low, high]"
        if self.medium == "audio" and self.rate is None:
            yield "medium", "audio needs a sampling rate", "add `rate: 22050` (samples per second)"
        if self.rate is not None and self.medium not in ("audio", "video"):
            yield "rate", f"a field of medium `{self.medium}` has no rate", "leave `rate` out"
        if self.medium == "text" and self.classes is None:
            yield "medium", "a text needs a vocabulary", "add `classes:`, the vocabulary size"
        if self.alphabet is not None and (self.medium != "text" or len(self.alphabet) != self.classes):
            count = len(self.alphabet)
            yield "alphabet", f"an alphabet of {count} characters needs `medium: text` and `classes: {count}`", None
        yield from self._text_faults()

    def _text_faults(self) -> Iterator[tuple[str, str, str | None]]:
        for key in ("tokenizer", "start", "end", "cleaning"):
            if getattr(self, key) is not None and self.medium != "text":
                yield key, f"`{key}` applies to text, but this field has medium `{self.medium}`", "set `medium: text`"
        if self.tokenizer is not None and self.alphabet is not None:
            yield "tokenizer", "`tokenizer` and `alphabet` both define the tokens", "leave out one of them"
        for key in ("start", "end"):
            if (token := getattr(self, key)) is not None and token >= (self.classes or 1):
                yield (
                    key,
                    f"token {token} is out of range: the field has tokens 0 to {(self.classes or 1) - 1}",
                    "use one of these",
                )
        marks = [key for key in ("start", "end") if getattr(self, key) is not None]
        if self.medium == "text" and len(self.shape) == 1 and self.shape[0] < len(marks):
            message = f"a text of {self.shape[0]} token has no room for both `start` and `end`"
            yield "shape", message, "make it longer, or leave out one of them"

    def _name_faults(self) -> Iterator[tuple[str, str, str | None]]:
        names = self.class_names
        if not isinstance(names, tuple):
            return
        if self.classes is None:
            yield "class_names", "class names, but the field has no `classes`", "add `classes:`, the number of classes"
        elif len(names) != self.classes:
            message = f"{len(names)} class names, but {self.classes} classes"
            yield "class_names", message, "give one name per class, in the order of the class numbers"
        if (number := _nameless(names)) is not None:
            what = f"the name of class {number} is empty, longer than {LONGEST} characters or not plain text"
            yield "class_names", what, "give 1 to 256 printable characters without spaces around them"

    def _medium_faults(self) -> Iterator[tuple[str, str, str | None]]:
        needed, optional, usual = _AXES[self.medium]
        missing = [axis for axis in needed if axis not in self.axes]
        extra = [axis for axis in self.axes if axis not in (*needed, *optional)]
        if missing or extra:
            what = f"no axis `{missing[0]}`" if missing else f"an axis `{extra[0]}`"
            fitting = " or ".join(f"[{', '.join(axes)}]" for axes in usual.values())
            yield "axes", f"{self.medium} with {what}", f"axes are {fitting}, in any order, or use `medium: array`"
        elif self.medium in ("image", "video") and self.size("channel") not in (1, 3):
            message = f"{self.medium} of {self.size('channel')} channels: only 1 (grey) and 3 (RGB) can be displayed"
            yield "medium", message, "use `medium: array`"

    def _grid_faults(self) -> Iterator[tuple[str, str, str | None]]:
        assert self.grid is not None
        count = 1
        for size in self.grid:
            count *= size
        if self.classes is None or self.shape != (count,):
            yield (
                "grid",
                f"a grid {list(self.grid)} holds {count} tokens, so it needs shape [{count}] and `classes`",
                None,
            )
        elif self.medium in _GRIDS and len(self.grid) != _GRIDS[self.medium]:
            yield "grid", f"tokens of medium `{self.medium}` need a grid of rank {_GRIDS[self.medium]}", None


class Tokens(Closed):
    """Short form of the field `tokens`: a sample is a grid of tokens, read row by row."""

    vocabulary: int = Option(gt=1, le=16_777_216, description="number of different tokens")
    grid: tuple[Size, ...] = Option(min_length=1, max_length=8, description="size of the token grid: [rows, columns]")

    @field_validator("grid")
    @classmethod
    def _grid_has_a_length(cls, grid: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(grid) > MOST_TOKENS:
            raise ValueError(f"a sample of {math.prod(grid)} tokens, more than {MOST_TOKENS}")
        return grid

    @property
    def length(self) -> int:
        """Number of tokens per sample."""
        return math.prod(self.grid)


FIRST_STAGE = "first_stage"
"""Name of its network in programs, weights files and projects."""


Factor = Annotated[float, Option(gt=0)]


class FirstStage(Closed):
    """An autoencoder: training reads the codes of images, and the samples of programs are decoded."""

    spec: str = Option(description="the autoencoder: a shipped spec (`sd_vae`), or a path relative to this file")
    variant: str | None = Option(None, description="variant of that spec")
    weights: str | None = Option(
        None, description="file or folder of its weights; null: samples stay latents or tokens"
    )
    names: str | None = Option(None, description="name map of that spec for the weights; null: latentc's own names")
    key: str | None = Option(None, description="state dict to use from a checkpoint (`ema`); null: the one that fits")
    shift: float | tuple[float, ...] = Option(
        0.0, description="subtracted from latents before `scale` (FLUX: 0.1159); a list: per channel"
    )
    scale: Factor | tuple[Factor, ...] = Option(
        1.0, description="factor that scales latents to about unit variance; a list: per channel"
    )

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Shift and scale, of each channel or one for all."""
        one = lambda value: value if isinstance(value, tuple) else (value,)  # noqa: E731
        return one(self.shift), one(self.scale)


@dataclass(frozen=True)
class Codes:
    """Input of an autoencoder's `decode`: its type, the size of its vocabulary, pixels per code along a side.

    `factor` is None if codes have no places in an image, whose size is then that of the autoencoder's own spec.
    """

    type: TensorType
    values: int | None
    factor: int | None
