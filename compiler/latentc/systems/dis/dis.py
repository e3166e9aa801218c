"""DiS: state space blocks over patches, time and conditions as tokens, with long skip connections.

U-ViT's blocks add to one stream, and its skips carry that stream. Here, as in Mamba, what a block computed and the sum
of all before it are kept apart, and the skips carry the former; so the two networks share the tokens only.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.stochastic_depth import DropPath, dropped, dropping, growing_rates
from latentc.components.decoding import Given
from latentc.components.kit.patches import image
from latentc.components.parts import Mixer, Norm, Problem, TokenNorm, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.systems.uvit.one_sequence import OneSequence, without_prefix


class Dis(OneSequence):
    """Diffusion state space models (Fei et al. 2024, arXiv:2402.05608).

    Takes x f32[B, C, H, W], t f32[B] and its conditions as tokens; returns f32[B, C_out, H, W]. With conditions, the
    sum of all non-patch tokens scales and shifts the last norm.
    """

    kind: Literal["dis"]
    mixer: Annotated[Component, OneOf("blocks/mixers")] = Field(description="how tokens exchange information")
    norm: Annotated[Component, OneOf("blocks/norms", base=TokenNorm)] = Field(
        description="norm before each mixer, and after the last"
    )
    time_mlp: bool = Field(True, description="two linear layers after the timestep features")
    skips: bool = Field(True, description="skip connections from the first half of the blocks to the second")
    drop_path: DropPath = Field(
        0.0,
        description="stochastic depth in training: probability that a sample skips the last block, increasing "
        "from 0 over the blocks",
    )
    INIT: ClassVar[str] = "linear_default"
    EMITTED: ClassVar[str] = "DiS"
    POSITIONS: ClassVar[tuple[str, Mapping[str, Any]]] = ("zeros", {})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "dis",
        "width": 16,
        "half": 1,
        "patch": 2,
        "drop_path": 0.1,
        "mixer": {"kind": "selective_scan", "state": 4},
        "norm": {"kind": "rms_norm"},
    }

    def problems_of_blocks(self) -> Iterator[Problem]:
        mixer, _ = self.parts()
        if mixer.spatial:
            message = f"`{mixer.kind}` needs a square of tokens, but here the time and conditions are tokens too"
            yield Problem(("mixer",), message, "use another, such as `{kind: selective_scan}`")
        if self.width % mixer.head_count:
            yield Problem(("width",), f"{mixer.head_count} heads do not divide the width of {self.width}")

    def parts(self) -> tuple[Mixer, Norm]:
        """The parts by the type that their folder promises."""
        assert isinstance(self.mixer, Mixer) and isinstance(self.norm, Norm)
        return self.mixer, self.norm

    def sizes_of_blocks(self) -> dict[str, Any]:
        return self.parts()[0].static(self.width)

    def read(self, b: Builder, x: Var, prefix: list[Var], patches: Any, sizes: Mapping[str, Any]) -> Var:
        mixer, norm = self.parts()
        plain, skipping = _block(mixer, norm, False), _block(mixer, norm, self.skips)
        if self.drop_path:
            plain, skipping = dropping(plain), dropping(skipping)
        width, half, patch = sizes["width"], sizes["half"], sizes["patch"]
        own = {k: sizes[k] for k in mixer.static(int(width))}
        total, skips = b.fill_like(x, 0.0), []
        # A block adds the result of the previous one, so it uses the rate of the previous block.
        rates = growing_rates(b, self.drop_path, 2 * half + 1, lag=1)
        for name, rate in zip(items("in_blocks", half), rates[:half], strict=True):
            x, total = b.sub(name, plain, x, *rate, total, dim=width, out="x total", **own)
            skips.append(x)
        x, total = b.sub("mid_block", plain, x, *rates[half], total, dim=width, out="x total", **own)
        for name, rate in zip(items("out_blocks", half), rates[half + 1 :], strict=True):
            joined = (skips.pop(),) if self.skips else ()
            x, total = b.sub(name, skipping, x, *rate, total, *joined, dim=width, out="x total", **own)
        x = norm.apply(b, "norm", (b.drop_path(x, self.drop_path, out="x") if self.drop_path else x) + total)
        cond = _sum(b, prefix) if len(prefix) > 1 else []  # the time alone does not modulate the last layer
        ends = {"dim": width, "grid": sizes["size"] // patch, "patch": patch, "out_channels": sizes["out_channels"]}
        x = without_prefix(b, x, prefix, patches)
        return b.sub("final_layer", _final_layer(), x, *cond, out="x", **ends)


def _sum(b: Builder, tokens: list[Var]) -> list[Var]:
    """The sum of tokens f32[B, n, D] as f32[B, D]."""
    return [summed(b, "c", [b.sum(token, axes=(1,), keepdims=False) for token in tokens])]


@cache
def _block(mixer: Mixer, norm: Norm, skips: bool) -> BlockBody:
    def mixed(b: Builder, x: Var, total: Var, dim: int, static: dict[str, Any]) -> tuple[Var, Var]:
        total = b.op("add", total, dropped(b, x, static), out="total")
        h = norm.apply(b, "norm", total)
        return mixer.apply(b, "mixer", h, "linear_default", Given(), dim=dim, **mixer.own(dim, static))[0], total

    @module_class("Block")
    def block(b: Builder, x: Var, total: Var, *, dim: int, **static: Any) -> tuple[Var, Var]:
        """Adds the output x of the block before to the total of all, and mixes the tokens of that."""
        return mixed(b, x, total, dim, static)

    @module_class("SkipBlock")
    def skip_block(b: Builder, x: Var, total: Var, skip: Var, *, dim: int, **static: Any) -> tuple[Var, Var]:
        """A block of x joined with the output of its counterpart in the first half."""
        x = dense(b, "skip_linear", b.concat(x, skip, axis=2, out="x"), dim, True, "linear_default", out="x")
        return mixed(b, x, total, dim, static)

    return skip_block if skips else block


@cache
def _final_layer() -> BlockBody:
    @module_class("FinalLayer")
    def forward(b: Builder, x: Var, *c: Var, dim: int, grid: int, patch: int, out_channels: int) -> Var:
        """Normalises and projects the tokens, then lays the patches out as an image."""
        x = b.layer_norm(x, eps=1e-6, out="x")
        if c:
            modulation = dense(b, "adaLN", b.silu(c[0]), 2 * dim, True, "linear_default", out="modulation")
            modulation = b.reshape(modulation, shape=(x.shape[0], 1, 2 * dim), out="modulation")
            shift, scale = b.split(modulation, axis=2, sizes=(dim, dim), out="shift scale")
            x = x * (scale + 1.0) + shift
        x = dense(b, "linear", x, patch * patch * out_channels, True, "linear_default", out="x")
        return image(b, x, out_channels, grid, patch)

    return forward
