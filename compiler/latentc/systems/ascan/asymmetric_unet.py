"""A staged U-Net whose stages have convolutional blocks too. Symbols: B batch, T tokens of a square, D width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Index
from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.unet.residual import ResidualBlock
from latentc.components.networks._stages import whole
from latentc.components.networks.staged_unet import Path, StagedUnet
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Var, items


class AsymmetricUnet(StagedUnet):
    """A staged_unet with convolutional residual blocks (AsCAN, Kag et al. 2024, arXiv:2411.04967)."""

    kind: Literal["asymmetric_unet"]  # type: ignore[assignment]
    convolutions: tuple[Index, ...] = Field(
        min_length=1,
        max_length=31,
        description="convolutional residual blocks per stage, after the other blocks in upward stages and before them "
        "elsewhere",
    )
    convolution: ResidualBlock = Field(ResidualBlock(), description="the convolutional residual block")
    EXAMPLE: ClassVar[dict[str, Any]] = {**StagedUnet.EXAMPLE, "kind": "asymmetric_unet", "convolutions": [1, 0, 1]}
    LISTS: ClassVar[str] = "_"  # stages have different kinds of blocks

    def per_stage(self) -> dict[str, int]:
        return {**super().per_stage(), "convolutions": len(self.convolutions)}

    def depth_sizes(self) -> dict[str, int]:
        return super().depth_sizes() | {f"{self.stage(i)}_convolutions": n for i, n in enumerate(self.convolutions)}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        for stage, (count, multiplier) in enumerate(zip(self.convolutions, self.multipliers, strict=False)):
            width = whole(self.width, multiplier)
            groups = min(self.convolution.groups, width // self.convolution.group_size)
            if count and (not groups or width % groups):
                message = f"{groups} groups do not divide the {width} channels of stage {stage}"
                yield Problem(("convolution", "groups"), message)

    def path(self) -> type[Path]:
        return _Path


class _Path(Path):
    config: AsymmetricUnet

    def blocks(self, stage: int, x: Var, grid: Any) -> Var:
        if stage <= self.config.lowest:
            return super().blocks(stage, self._convolutions(stage, x, grid), grid)
        return self._convolutions(stage, super().blocks(stage, x, grid), grid)

    def _convolutions(self, stage: int, x: Var, grid: Any) -> Var:
        b, config, (_, tokens, features) = self.b, self.config, x.shape
        name = f"{config.stage(stage)}_convolutions"
        if not config.convolutions[stage]:
            return x
        x, c = as_map(b, x, grid), b.silu(self.condition(stage), out="c")
        for item in items(name, self.static[name]):
            x = config.convolution.apply(b, item, x, c, features)
        return as_tokens(b, x, tokens)
