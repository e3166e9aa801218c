"""DiT-DH: a wide, shallow decoder on the condition of a narrower encoder branch.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width of the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.block import Block
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import Builder, Var, items
from latentc.systems.ddt.condition_encoder import EncodedCondition
from latentc.systems.ddt.ddt_transformer import final_layer


class DitdhTransformer(EncodedCondition):
    """Transformer with a wide head (Zheng et al. 2025, arXiv:2510.11690).

    Takes x f32[B, C, H, W], t f32[B] and conditions as vectors; returns f32[B, C_out, H, W]. An encoder of `depth`
    blocks turns the patches into a condition for each; a linear layer brings it to the head's width, and the head's
    blocks, modulated by it, predict from the patches.
    """

    kind: Literal["ditdh_transformer"]
    decoder_width: int = Field(gt=0, le=65_536, description="channels of a token in the head")
    decoder_depth: int = Field(gt=0, le=512, description="number of blocks of the head")
    decoder_heads: int = Field(gt=0, le=1_024, description="attention heads of the head's blocks")
    CLASS_NAME: ClassVar[str] = "DiTDH"
    BLOCK: ClassVar[dict[str, Any]] = {**EncodedCondition.BLOCK, "condition": {"kind": "zero_token_adaln"}}
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "ditdh_transformer",
        "width": 16,
        "depth": 2,
        "decoder_width": 32,
        "decoder_depth": 1,
        "decoder_heads": 2,
        "patch": 4,
        "positions": {"kind": "sincos_rope_2d"},
        "block": {**EncodedCondition.BLOCK, "condition": {"kind": "zero_token_adaln"}},
    }

    @property
    def decoder_block(self) -> Block:
        """The head's block: the encoder's, but for the number of heads."""
        return self.block.model_copy(
            update={"mixer": self.block.mixer.model_copy(update={"heads": self.decoder_heads})}
        )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if "heads" not in type(self.block.mixer).model_fields:
            message = f"the head has its own number of attention heads, but `{self.block.mixer.kind}` has none"
            yield Problem(("block", "mixer"), message, "use `{kind: attention}`")
            return
        for problem in self.decoder_block.problems_of_width(self.decoder_width, any_heads=True):
            if problem.path == ("width",):
                yield Problem(("decoder_width",), problem.message, problem.help)
        for problem in self.decoder_block.problems_of_rotary(self.decoder_width, positions=self.positions):
            yield Problem(("decoder_heads",), problem.message, problem.help)

    def decoder_sizes(self) -> dict[str, Any]:
        own = {f"decoder_{name}": size for name, size in self.decoder_block.static(self.decoder_width).items()}
        return {"decoder_width": self.decoder_width, "decoder_depth": self.decoder_depth, **own}

    def decoded(self, b: Builder, patches: Var, s: Var, sizes: Mapping[str, Any]) -> Var:
        width, block = sizes["decoder_width"], self.blocks_of("Decoder")
        own = {"grid": sizes["grid"]}
        own |= {name: sizes[f"decoder_{name}"] for name in self.decoder_block.static(self.decoder_width)}
        if self.width != self.decoder_width:
            s = dense(b, "s_projector", s, width, True, "linear_default", out="s")
        x = dense(b, "x_embedder", patches, width, True, "xavier", out="x")
        rotary = self.turned(b, own, width)
        for name in items("blocks", sizes["decoder_depth"]):
            x = b.sub(name, block, x, s, *rotary, dim=width, **self.decoder_block.own(self.decoder_width, own))
        _, _, norm, condition = self.block.parts()
        ends = {name: sizes[name] for name in ("size", "patch", "out_channels")}
        return b.sub("final_layer", final_layer(condition, norm), x, s, dim=width, **ends)  # type: ignore[no-any-return]
