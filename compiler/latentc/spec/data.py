"""The `data` section: where the training samples come from, and what a network sees of them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component, OneOfThese

Size = Annotated[int, Field(gt=0)]


class Tokens(Closed):
    """A sample as a sequence of tokens: a grid read row by row."""

    vocabulary: int = Field(gt=1, description="number of different tokens")
    grid: tuple[Size, Size] = Field(description="rows and columns of the token grid")

    @property
    def length(self) -> int:
        """Tokens in a sample."""
        return self.grid[0] * self.grid[1]


class AutoencoderKl(Component):
    """A continuous first stage: images become latents (Rombach et al. 2022, arXiv:2112.10752)."""

    kind: Literal["autoencoder_kl"]
    path: str = Field(description="folder or file of the autoencoder's weights (diffusers' AutoencoderKL)")
    scale: float = Field(0.18215, gt=0, description="latents are multiplied by this: about unit variance")
    factor: int = Field(8, gt=0, description="pixels a latent spans along each side")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "autoencoder_kl", "path": "vae"}


class VqModel(Component):
    """A discrete first stage: images become tokens (Esser et al. 2021, arXiv:2012.09841)."""

    kind: Literal["vq_model"]
    path: str = Field(description="file of the tokenizer's weights")
    factor: int = Field(16, gt=0, description="pixels a token spans along each side")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vq_model", "path": "vq_ds16_c2i.pt"}


FirstStage = Annotated[Component | None, OneOfThese("first stages", (AutoencoderKl, VqModel))]


class Data(Component):
    """What every kind of data has. A network sees arrays of `shape` or `tokens`; the other is null."""

    classes: int = Field(gt=0, description="number of classes, labelled from 0")
    shape: tuple[Size, Size, Size] | None = Field(
        None,
        description="[C, H, W] of what the network sees: latents where there is a first stage, else pixels",
    )
    tokens: Tokens | None = Field(None, description="the tokens the network sees, instead of `shape`")
    first_stage: FirstStage = Field(None, description="what turns images into latents or tokens, and back")


class Digits(Data):
    """scikit-learn's handwritten digits: 1,797 images of 8 × 8 pixels with 17 grey levels.

    As images they are scaled to [-1, 1]; as tokens each pixel is one token, its grey level.
    """

    kind: Literal["digits"]
    classes: Literal[10] = Field(10, description="the ten digits")
    as_: Literal["images", "tokens"] = Field("images", alias="as", description="what the network sees")
    shape: tuple[Literal[1], Literal[8], Literal[8]] | None = Field(None, description="[1, 8, 8], set by `as`")
    tokens: Tokens | None = Field(None, description="17 levels on an 8 × 8 grid, set by `as`")
    part: Literal["train", "all"] = Field(
        "train",
        description="the training half (898 images of a fixed permutation; the others are for judging), or all",
    )
    first_stage: None = Field(None, description="digits need none")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "digits"}

    def model_post_init(self, context: Any) -> None:
        """Fill in whichever of `shape` and `tokens` the field `as` asks for."""
        # A frozen model is changed only here, before anyone has seen it.
        if self.as_ == "images" and self.shape is None:
            self.__dict__["shape"] = (1, 8, 8)
        if self.as_ == "tokens" and self.tokens is None:
            self.__dict__["tokens"] = Tokens(vocabulary=17, grid=(8, 8))


class ImageFolder(Data):
    """One sub-folder of images a class, as torchvision's ImageFolder reads it; classes in sorted order."""

    kind: Literal["image_folder"]
    path: str = Field("data/train", description="folder that holds one folder a class")
    horizontal_flip: bool = Field(True, description="mirror half of the training images")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "image_folder", "classes": 4, "shape": [3, 16, 16]}


class NpzKeys(Closed):
    """The names of the two arrays of an .npz file."""

    x: str = Field("x", description="samples: f32[N, C, H, W], uint8 pixels [N, H, W, C], or integers [N, T]")
    y: str = Field("y", description="labels: integers [N]")


class Npz(Data):
    """Arrays in one .npz file."""

    kind: Literal["npz"]
    path: str = Field("data/train.npz", description="the file")
    keys: NpzKeys = Field(NpzKeys(), description="names of the arrays in it")
    horizontal_flip: bool = Field(False, description="mirror half of the training images")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "npz", "classes": 4, "shape": [4, 8, 8]}


DATA = OneOfThese("data", (Digits, ImageFolder, Npz))
