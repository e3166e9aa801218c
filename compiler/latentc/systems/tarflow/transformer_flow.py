"""A normalising flow of causal transformers over image patches: TarFlow, STARFlow.

Symbols: B batch, T tokens (patches), C channels of a token, D width, H heads, d channels of a head, L tokens of
conditions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.blocks.block import Block
from latentc.components.capabilities import TRAINING, Capability, Role
from latentc.components.condition import Condition, Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.parts import Positions, Problem, Spec, TokenNorm, Weights
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.types import B
from latentc.systems.tarflow.flow_block import Flow
from latentc.systems.tarflow.flow_methods import METHODS, OF_NETWORK, Inversion, Method
from latentc.systems.tarflow.frames import Layout, layout_of

Depth = Annotated[int, Field(ge=0, le=64)]
Signature = tuple[tuple[Port, ...], tuple[Role, ...]]


class TransformerFlow(Backbone):
    """Autoregressive flows over patches, alternating between raster order and its reverse (Zhai et al. 2024,
    arXiv:2412.06329). `forward`: x f32[B, channels, H, W], conditions -> latent f32[B, T, C], log-determinant f32[B]
    per dimension. For flows that only shift, `variances` maps the latent to the variances of its prior f32[T, C];
    `inverse` takes a standard normal latent. `inverse`: latent, conditions -> x. `guided_inverse`: latent,
    conditions, conditions of the other branch (`null_NAME`), the attention temperature of that branch f32[B] (with
    `guidance: density`, of all attention), guidance scale f32[N, B] -> x. Each flow predicts log scale and shift of
    a token from the previous tokens; without `start_token` the first token is unchanged and N is T - 1, with it N is
    T. STARFlow (Gu et al. 2025, arXiv:2506.06276) is a choice of options: `depths`, `conditioned_flows: last`,
    `positions`, `conditions_as: prefix`, `start_token`, `scale`, `soft_clip`, `final_norm`, `guidance`.

    For a video, x is f32[B, channels, F, H, W]: every flow but the last works within each frame, the last one over all
    frames in order, and a token order is that within a frame (STARFlow-V, Gu et al. 2025, arXiv:2511.20462).
    """

    kind: Literal["transformer_flow"]
    width: int = Field(gt=0, le=65_536, description="channels of a token in a flow (D)")
    flows: int = Field(gt=0, le=64, description="number of autoregressive flows")
    depth: int = Field(gt=0, le=64, description="transformer blocks per flow")
    depths: tuple[Depth, ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="blocks of each flow, 0 omits a flow; null: `depth` each",
    )
    patch: int = Field(gt=0, le=1_024, description="side of a patch in pixels")
    channels_last: bool = Field(False, description="a token is its patch as [P, P, C] instead of [C, P, P]")
    reverse_first: bool = Field(False, description="the first flow runs in reverse raster order")
    conditions_as: Literal["sum", "prefix"] = Field(
        "sum", description="conditions are added to every token, or are tokens in front"
    )
    conditioned_flows: Literal["all", "last"] = Field(
        "all", description="which flows take the conditions and are guided"
    )
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="rotary positions of every flow; null: a learned table per flow"
    )
    start_token: bool = Field(
        False, description="a learned token from which the first one is predicted; false: the first token is unchanged"
    )
    scale: Literal["exp", "softplus", "none"] = Field(
        "exp",
        description="function that makes scales positive, 1 at 0; none: flows only shift (volume-preserving), and "
        "the prior's variances follow those of the latents in training (NICE)",
    )
    soft_clip: float | None = Field(None, gt=0, description="bound on the raw scale and shift, by tanh; null: none")
    final_norm: Annotated[Component | None, OneOf("blocks/norms", base=TokenNorm)] = Field(
        None, description="norm after the blocks of a flow"
    )
    guidance: Literal["linear", "density"] = Field(
        "linear",
        description="guidance of scale and shift separately: u + scale (c - u); or of the normal densities they "
        "describe: c (c / u)^(scale - 1), where c is not the wider one (STARFlow)",
    )
    guides: Literal["both", "scale", "shift"] = Field(
        "both",
        description="what `linear` guidance applies to: scale and shift, or one of them (TarFlow's `guide_what`)",
    )
    block: Block = Field(description="the repeated block; its mixer is causal")
    weights: Weights = Field(
        "xavier", description="initialisation of linear layers; the last one of a flow starts at zero"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "transformer_flow",
        "width": 16,
        "flows": 2,
        "depth": 2,
        "patch": 2,
        "block": {
            **Block.EXAMPLE,
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"flow"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("frames",)

    def form_of(self, condition: Condition) -> Form | None:
        form: Form = "tokens" if self.conditions_as == "prefix" else "vector"
        return form if form in condition.forms else None

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) not in (3, 4):
            words = spec.data.words
            yield Problem((), f"a transformer_flow takes arrays [C, H, W] or [C, F, H, W], but the data has {words}")
        else:
            for side in dict.fromkeys(spec.data.shape[-2:]):
                if side % self.patch or side // self.patch < 2:
                    fits = [d for d in range(1, side // 2 + 1) if side % d == 0]
                    message = f"patches of {self.patch} do not divide a side of {side} into two or more"
                    yield Problem(("patch",), message, f"choose one of {', '.join(map(str, fits))}")
            yield from self._problems_of_layout(self.layout(spec))
        yield from self.block.problems_of_width(self.width, any_heads=True)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.block.problems_of_decoding("each token of a flow depends on those before it")
        yield from self._problems_of_flows()
        yield from self._problems_of_prefix(spec)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    def _problems_of_layout(self, layout: Layout) -> Iterator[Problem]:
        what = "a video" if layout.frames else "an array that is not square"
        if layout.square and not layout.frames:
            return
        if layout.frames and self.conditioned_flows != "last":
            message = "only the last flow sees the whole video and takes conditions; the others take single frames"
            yield Problem(("conditioned_flows",), message, "set `conditioned_flows: last`")
        if isinstance(self.positions, Positions) and self.positions.ROTARY and not self.positions.FRAMES:
            message = f"`{self.positions.kind}` has no positions for {what}"
            yield Problem(("positions",), message, "use `{kind: rope_prefix}`, or leave it out")
        if self.scale == "none":
            yield Problem(("scale",), f"flows that only shift need square images, not {what}", "use `scale: softplus`")

    def _problems_of_flows(self) -> Iterator[Problem]:
        if self.depths is not None and len(self.depths) != self.flows:
            message = f"`depths` has {len(self.depths)} numbers, but there are {self.flows} flows"
            yield Problem(("depths",), message, f"set `flows: {len(self.depths)}`")
        elif self.depths is not None and not any(self.depths):
            yield Problem(("depths",), "every flow has depth 0", "give at least one of them a depth of 1 or more")
        if self.guides != "both" and self.guidance != "linear":
            message = f"this guidance combines whole densities, not their {self.guides} alone"
            yield Problem(("guides",), message, "leave `guides` out, or set `guidance: linear`")
        if self.scale == "none" and (self.guidance != "linear" or self.guides == "scale"):
            where, use = ("guides", "both") if self.guidance == "linear" else ("guidance", "linear")
            message = "flows that do not scale can only be guided by their shifts"
            yield Problem((where,), message, f"set `{where}: {use}`")
        if isinstance(self.positions, Positions) and not self.positions.ROTARY:
            message = f"positions of a transformer_flow must be rotary, but `{self.positions.kind}` is not"
            yield Problem(("positions",), message, "leave `positions` out for a learned table per flow")

    def _problems_of_prefix(self, spec: Spec) -> Iterator[Problem]:
        if self.conditions_as != "prefix":
            return
        for name, condition in self.takes(spec).items():
            if condition.token_shape(name, spec).masked:
                message = f"every token of the prefix is attended to, but `{name}` has a mask of valid tokens"
                yield Problem((), message, f"set `conditioning.{name}.padding: zeros`")

    def depth_of(self, flow: int) -> int:
        """Transformer blocks of a flow."""
        return self.depth if self.depths is None else self.depths[flow]

    def layout(self, spec: Spec) -> Layout:
        """How tokens lie."""
        assert spec.data.shape is not None
        return layout_of(spec.data.shape, self.patch, self.prefix(spec))

    def prefix(self, spec: Spec) -> int:
        """L: how many tokens of conditions stand before those of the sample."""
        if self.conditions_as != "prefix":
            return 0
        return sum(entry.token_shape(spec).length for entry in self.entries(spec))

    def static(self, spec: Spec) -> dict[str, Any]:
        """Static arguments of the network."""
        assert spec.data.shape is not None
        return {
            **self.layout(spec).static(spec.data.shape, self.patch),
            "patch": self.patch,
            "channels": spec.data.shape[0],
            "width": self.width,
            "flows": self.flows,
            **({} if self.depths is not None else {"depth": self.depth}),
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }

    def signatures(self, spec: Spec, name: str) -> dict[str, Signature]:
        """Inputs and roles of outputs of each method."""
        shape, cond = spec.data.shape, ports_of(self.entries(spec))
        assert shape is not None
        frames = self.layout(spec).frames or 1
        length = frames * (shape[-2] // self.patch) * (shape[-1] // self.patch)
        null = tuple(Port(f"null_{p.name}", p.type, "condition", p.values, p.null) for p in cond)
        latent = Port("z", f32(B, length, shape[0] * self.patch**2), "noise")
        guided = length - (not self.start_token)
        temperature, scale = Port("temperature", f32(B), "scale"), Port("scale", f32(guided, B), "scale")
        found: dict[str, Signature] = {
            "forward": ((Port("x", f32(B, *shape), "state"), *cond), ("output", "log_det")),
            "inverse": ((latent, *cond), ("output",)),
            "guided_inverse": ((latent, *cond, *null, temperature, scale), ("output",)),
        }
        if asked(spec, name, "norms"):
            found[TRAINING] = found["forward"][0], ("output", "log_det", "penalty")
        if self.scale == "none":
            found["variances"] = (Port("z", latent.type, "state"),), ("output",)
        return found

    def methods(self) -> Mapping[str, Method]:
        """The builder of each method."""
        return METHODS

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static, entries, layout = self.static(spec), self.entries(spec), self.layout(spec)
        inversion = asked(spec, name, "inversion", Inversion())
        makers, methods = self.methods(), {}
        for method, (ports, outputs) in self.signatures(spec, name).items():
            body = makers[method](self, entries, layout, inversion)
            methods[method] = add_method(mb, name, method, body, ports, static, outputs)
        height, width = spec.data.shape[-2:]
        sizes = {"rms": int(not self.block.parts()[2].CENTRED), "shifts": int(self.scale == "none")}
        sizes |= {"prefix": self.prefix(spec), "frame_tokens": (height // self.patch) * (width // self.patch)}
        return Network(name, methods, self.PROVIDES, sizes=sizes)

    def flow(self, i: int, entries: tuple[Entry, ...], layout: Layout) -> Flow:
        """The parts of flow i."""
        conditioned, prefix = self.conditioned(i), layout.prefix
        final_norm = self.final_norm
        assert final_norm is None or isinstance(final_norm, TokenNorm)
        return Flow(
            self.block,
            self.weights,
            entries if conditioned else (),
            prefix if conditioned else 0,
            self.positions is not None,
            self.start_token,
            self.scale,
            self.soft_clip,
            final_norm,
            self.guides,
            *((layout.frame, 1) if i == self.flows - 1 else (0, layout.frames or 1)),
        )

    def conditioned(self, i: int) -> bool:
        """True if flow i takes the conditions."""
        return self.conditioned_flows == "all" or i == self.flows - 1

    def sizes_of(self, i: int, static: Mapping[str, Any]) -> dict[str, Any]:
        """The static arguments of flow i, of those of the network."""
        sizes = {"dim": static["width"], **{k: v for k, v in static.items() if k not in OF_NETWORK}}
        if self.depths is not None:
            sizes["depth"] = self.depths[i]
        return sizes
