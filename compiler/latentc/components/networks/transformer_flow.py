"""A normalising flow of causal transformers over image patches: TarFlow.

Symbols: B batch, T tokens (patches), C channels of a token, D width, H heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Capability, Network, Port, Role
from latentc.components.kit.patches import patchify, unpatchify
from latentc.components.networks._flow_block import flow, flow_inverse
from latentc.components.parts import Problem, Weights
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class TransformerFlow(Backbone):
    """Autoregressive flows over patches, in raster order and its reverse by turns (Zhai et al. 2024, arXiv:2412.06329).

    `forward`: x f32[B, channels, H, W], conditions -> latent f32[B, T, C], log-determinant f32[B] per dimension.
    `inverse`: latent, conditions -> x. `guided_inverse`: latent, conditions, conditions of the other branch
    (`null_NAME`), the attention temperature of that branch f32[B], guidance scale f32[T - 1, B] -> x. Each flow
    predicts log scale and shift of a token from the tokens before it; the first token stays as it is.
    """

    kind: Literal["transformer_flow"]
    width: int = Field(gt=0, le=65_536, description="channels of a token inside a flow (D)")
    flows: int = Field(gt=0, le=64, description="number of autoregressive flows")
    depth: int = Field(gt=0, le=64, description="transformer blocks per flow")
    patch: int = Field(gt=0, le=1_024, description="side of a patch in pixels")
    block: Block = Field(description="the block that is repeated; its mixer is causal")
    weights: Weights = Field("xavier", description="how linear layers start; the last one of a flow starts at zero")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "transformer_flow",
        "width": 16,
        "flows": 2,
        "depth": 2,
        "patch": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"flow"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a transformer_flow takes arrays [C, H, W], but the data has {spec.data.words}")
        else:
            _, height, width = spec.data.shape
            if height != width:
                yield Problem((), f"a transformer_flow takes square inputs, not {height} by {width}")
            elif height % self.patch or height // self.patch < 2:
                fits = [d for d in range(1, height // 2 + 1) if height % d == 0]
                message = f"patches of {self.patch} do not cut a side of {height} into two or more"
                yield Problem(("patch",), message, f"choose one of {', '.join(map(str, fits))}")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_decoding("each token of a flow depends on those before it")
        if self.block.condition.kind != "in_context":
            message = "a transformer_flow adds its conditions to the tokens before the blocks"
            yield Problem(("block", "condition"), message, "use `{kind: in_context}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        static: dict[str, Any] = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "flows": self.flows,
            "depth": self.depth,
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        length = (size // self.patch) ** 2
        entries = self.entries(spec)
        told = ports_of(entries)
        null = tuple(Port(f"null_{p.name}", p.type, "condition", p.values, p.null) for p in told)
        latent = Port("z", f32(B, length, channels * self.patch**2), "noise")
        temperature, scale = Port("temperature", f32(B), "scale"), Port("scale", f32(length - 1, B), "scale")
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((Port("x", f32(B, channels, size, size), "state"), *told), ("output", "log_det")),
            "inverse": ((latent, *told), ("output",)),
            "guided_inverse": ((latent, *told, *null, temperature, scale), ("output",)),
        }
        methods = {
            method: add_method(mb, name, method, _METHODS[method](self, entries), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        return Network(name, methods, self.PROVIDES)


@cache
def _forward(config: TransformerFlow, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("TransformerFlow", x="B channels size size")
    def forward(
        b: Builder,
        x: Var,
        *conditions: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        flows: int,
        depth: int,
        **static: Any,
    ) -> tuple[Var, Var]:
        """The latent of x, and the log-determinant of the map per dimension."""
        grid, features = size // patch, channels * patch**2
        tokens = Named(grid**2, "T")
        x = patchify(b, x, patch, out="x", tokens=tokens)
        order = _reversed(b, b.arange(tokens, out="order"), grid**2)
        total = b.full(x, shape=(), value=0.0, dtype="f32", out="log_det")
        for name in items("blocks", flows):
            order = _reversed(b, order, grid**2)
            x, log_det = b.sub(
                name,
                flow(config.block, config.weights, entries),
                x,
                order,
                *conditions,
                out="x log_det",
                features=features,
                tokens=grid**2,
                dim=width,
                depth=depth,
                **static,
            )
            total = b.add(total, log_det, out="log_det")
        return x, total

    return forward


def _reversed(b: Builder, order: Var, tokens: int) -> Var:
    return b.op("sub", b.scalar(tokens - 1, order), order, out="order")  # type: ignore[no-any-return]


def _inverse_of(guided: bool) -> Callable[[TransformerFlow, tuple[Entry, ...]], BlockBody]:
    @cache
    def made(config: TransformerFlow, entries: tuple[Entry, ...]) -> BlockBody:
        @module_class("TransformerFlow", "guided_inverse" if guided else "inverse", z="B T=(size//patch)**2 C")
        def inverse(
            b: Builder,
            z: Var,
            *others: Var,
            size: int,
            patch: int,
            channels: int,
            width: int,
            flows: int,
            depth: int,
            **static: Any,
        ) -> Var:
            """The sample of which z is the latent."""
            grid, features = size // patch, channels * patch**2
            tokens = Named(grid**2, "T")
            x = z
            order = b.arange(tokens, out="order")
            if int(flows) % 2:
                order = _reversed(b, order, tokens)
            for name in reversed(items("blocks", flows)):
                order = _reversed(b, order, tokens)
                x = b.sub(
                    name,
                    flow_inverse(config.block, config.weights, entries, guided),
                    x,
                    order,
                    *others,
                    out="x",
                    features=features,
                    tokens=grid**2,
                    dim=width,
                    depth=depth,
                    **static,
                )
            return unpatchify(b, x, (channels, size, size), patch=patch)

        return inverse

    return made


_METHODS: dict[str, Callable[[TransformerFlow, tuple[Entry, ...]], BlockBody]] = {
    "forward": _forward,
    "inverse": _inverse_of(False),
    "guided_inverse": _inverse_of(True),
}
