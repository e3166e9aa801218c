"""A small vocabulary of its own for the tests of the spec language, so that they stand by themselves."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

import latentc.components as components
from latentc.components import Component, OneOf


class Attention(Component):
    kind: Literal["attention"]
    heads: int = Field(6, gt=0, description="number of heads")


class Scan(Component):
    kind: Literal["scan"]
    state: int = Field(16, gt=0, description="size of the state")


class Transformer(Component):
    kind: Literal["transformer"]
    width: int = Field(gt=0, description="channels of a token")
    depth: int = Field(gt=0, description="number of blocks")
    mixer: Annotated[Component, OneOf("mixers")] = Attention(kind="attention")
    window: int | Literal["all"] = Field("all", description="tokens a token sees")
    bias: bool = Field(True, description="whether linear layers have a bias")

    @field_validator("width")
    @classmethod
    def even(cls, width: int) -> int:
        if width % 2:
            raise ValueError(f"the width {width} must be even: half of it is sines, half cosines")
        return width


class Convolution(Component):
    kind: Literal["convolution"]
    widths: tuple[int, ...] = (32, 64)


class Label(Component):
    kind: Literal["label"]
    dropout: float = Field(0.1, ge=0, le=1, description="fraction of labels replaced by the null class")


class Diffusion(Component):
    kind: Literal["diffusion"]
    steps: int = Field(1000, gt=0, description="steps of the forward process")
    schedule: Literal["linear", "cosine"] = "linear"


class Ddim(Component):
    kind: Literal["ddim"]
    steps: int = Field(50, gt=0)
    eta: float = Field(0.0, ge=0)


class Euler(Component):
    kind: Literal["euler"]
    steps: int = Field(50, gt=0)
    interval: tuple[float, float] = (0.0, 1.0)


FOLDERS: dict[str, tuple[type[Component], ...]] = {
    "networks": (Transformer, Convolution),
    "mixers": (Attention, Scan),
    "conditions": (Label,),
    "objectives": (Diffusion,),
    "samplers": (Ddim, Euler),
}

TINY = """\
latentc: 1
name: tiny
data: {kind: digits}
backbone:
  kind: transformer
  width: 48
  depth: 2
  mixer: {kind: attention, heads: 4}
conditioning:
  class: {kind: label, dropout: 0.1}
objective: {kind: diffusion, schedule: cosine}
sampler: {kind: ddim, steps: 10}
train:
  steps: 100
  batch_size: 64
  optimizer: {kind: adamw, lr: 1e-3}
variants:
  wide:
    backbone: {width: 96}
  scan:
    backbone:
      mixer: {kind: scan}
"""


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's folders of `FOLDERS` hold the components of this file."""
    classes = {
        name: {kind: cls for cls in folder if (kind := components.kind_of(cls))} for name, folder in FOLDERS.items()
    }
    load, find = components.load, components.find
    monkeypatch.setattr(components, "load", lambda name: classes[name] if name in classes else load(name))
    monkeypatch.setattr(
        components, "find", lambda name, kind: classes[name].get(kind) if name in classes else find(name, kind)
    )
