"""DiT with rotary positions beside its others, and a norm after the last block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.networks.patch_transformer import PatchTransformer
from latentc.components.parts import Positions, Problem, Spec
from latentc.ir.builder import Builder, Var


class VitokTransformer(PatchTransformer):
    """A patch_transformer with a second, rotary position encoding and a norm of the blocks' kind after the last block
    (ViTok, Hansen-Estruch et al. 2025, arXiv:2501.09755)."""

    kind: Literal["vitok_transformer"]  # type: ignore[assignment]
    rotary: Annotated[Component, OneOf("blocks/positions")] = Field(description="additional rotary positions")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **PatchTransformer.EXAMPLE,
        "kind": "vitok_transformer",
        "rotary": {"kind": "rope_2d"},
    }

    def encodings(self) -> dict[str, Positions | None]:
        assert isinstance(self.rotary, Positions)
        return {**super().encodings(), "rotary": self.rotary}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        positions, rotary = self.encodings().values()
        if rotary is not None and not rotary.ROTARY:
            yield Problem(("rotary",), f"`{rotary.kind}` is not rotary", "make it `positions`")
        elif positions is not None and positions.ROTARY:
            yield Problem(("rotary",), "`positions` are already rotary", "use `kind: patch_transformer`")

    def after_blocks(self, b: Builder, x: Var) -> Var:
        return self.block.parts()[2].apply(b, "norm", x)
