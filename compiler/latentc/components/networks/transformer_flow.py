"""A normalising flow of causal transformers over image patches: TarFlow, STARFlow.

Symbols: B batch, T tokens (patches), C channels of a token, D width, H heads, d channels of a head, L tokens of
conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.capabilities import TRAINING, Capability, Role
from latentc.components.condition import Condition, Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import image, patchify, unpatchify
from latentc.components.networks._flow_block import Flow, flow, prior_variance, variances
from latentc.components.networks._flow_inverse import flow_inverse
from latentc.components.networks._flow_solver import Guidance
from latentc.components.objective import Objective
from latentc.components.parts import Norm, Positions, Problem, Weights
from latentc.components.sampler import FixedPoint, Sampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named
from latentc.ir.var import as_tuple

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

Depth = Annotated[int, Field(ge=0, le=64)]


class TransformerFlow(Backbone):
    """Autoregressive flows over patches, alternating between raster order and its reverse (Zhai et al. 2024,
    arXiv:2412.06329). `forward`: x f32[B, channels, H, W], conditions -> latent f32[B, T, C], log-determinant f32[B]
    per dimension. For flows that only shift, `variances` maps the latent to the variances of its prior f32[T, C];
    `inverse` takes a standard normal latent. `inverse`: latent, conditions -> x. `guided_inverse`: latent,
    conditions, conditions of the other branch (`null_NAME`), the attention temperature of that branch f32[B] (with
    `guidance: density`, of all attention), guidance scale f32[N, B] -> x. Each flow predicts log scale and shift of
    a token from the previous tokens; without `start_token` the first token is unchanged and N is T - 1, with it N is
    T. STARFlow (Gu et al. 2025, arXiv:2506.06276) is a choice of options: `depths`, `told_flows: last`, `positions`,
    `conditions_as: prefix`, `start_token`, `scale`, `soft_clip`, `final_norm`, `guidance`.
    """

    kind: Literal["transformer_flow"]
    width: int = Field(gt=0, le=65_536, description="channels of a token in a flow (D)")
    last_width: int | None = Field(
        None, gt=0, le=65_536, description="channels in the last flow, with the same head size; null: as `width`"
    )
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
    told_flows: Literal["all", "last"] = Field("all", description="which flows take the conditions and are guided")
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
    final_norm: Annotated[Component | None, OneOf("blocks/norms")] = Field(
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
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"flow", "flow_norms"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")

    def form_of(self, condition: Condition) -> Form | None:
        form: Form = "tokens" if self.conditions_as == "prefix" else "vector"
        return form if form in condition.forms else None

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
        yield from self.block.problems_of_width(self.width, any_heads=True)
        yield from self.block.problems_of_decoding("each token of a flow depends on those before it")
        yield from self._problems_of_flows()
        yield from self._problems_of_prefix(spec)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    def _problems_of_flows(self) -> Iterator[Problem]:
        if self.depths is not None and len(self.depths) != self.flows:
            message = f"`depths` has {len(self.depths)} numbers for {self.flows} flows"
            yield Problem(("depths",), message, f"set `flows: {len(self.depths)}`")
        elif self.depths is not None and not any(self.depths):
            yield Problem(("depths",), "every flow is left out", "give one of them a depth of 1 or more")
        if self.guides != "both" and self.guidance != "linear":
            message = f"densities are guided as a whole, not their {self.guides} alone"
            yield Problem(("guides",), message, "leave it out, or set `guidance: linear`")
        if self.scale == "none" and (self.guidance != "linear" or self.guides == "scale"):
            where, use = ("guides", "both") if self.guidance == "linear" else ("guidance", "linear")
            message = "flows that do not scale are guided by their shifts"
            yield Problem((where,), message, f"set `{where}: {use}`")
        head_dim = self.head_dim
        whole = self.last_width is None or self.block.parts()[0].own_head_size or not head_dim
        if not whole and self.last_width % head_dim:  # type: ignore[operator]
            yield Problem(("last_width",), f"heads of {head_dim} do not divide {self.last_width}")
        if isinstance(self.positions, Positions) and not self.positions.ROTARY:
            message = f"`{self.positions.kind}` is not rotary, as positions of a transformer_flow are"
            yield Problem(("positions",), message, "leave them out for a learned table per flow")

    def _problems_of_prefix(self, spec: Spec) -> Iterator[Problem]:
        if self.conditions_as != "prefix":
            return
        for name, condition in self.told(spec).items():
            if condition.masked(name, spec):
                message = f"every token of the prefix is seen, and `{name}` has a mask of those that count"
                yield Problem((), message, f"set `conditioning.{name}.padding: zeros`")

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.block.parts()[0].head_size(self.width)

    def depth_of(self, flow: int) -> int:
        """Transformer blocks of a flow."""
        return self.depth if self.depths is None else self.depths[flow]

    def prefix(self, spec: Spec) -> int:
        """L: how many tokens of conditions stand before those of the sample."""
        if self.conditions_as != "prefix":
            return 0
        return sum(entry.condition.length(entry.name, spec) for entry in self.entries(spec))

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        static: dict[str, Any] = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "flows": self.flows,
            **({} if self.depths is not None else {"depth": self.depth}),
            **self.block.static(self.width),
            **self.condition_sizes(spec),
        }
        length = (size // self.patch) ** 2
        entries, prefix = self.entries(spec), self.prefix(spec)
        told = ports_of(entries)
        null = tuple(Port(f"null_{p.name}", p.type, "condition", p.values, p.null) for p in told)
        latent = Port("z", f32(B, length, channels * self.patch**2), "noise")
        guided = length - (not self.start_token)
        temperature, scale = Port("temperature", f32(B), "scale"), Port("scale", f32(guided, B), "scale")
        signatures: dict[str, tuple[tuple[Port, ...], tuple[Role, ...]]] = {
            "forward": ((Port("x", f32(B, channels, size, size), "state"), *told), ("output", "log_det")),
            "inverse": ((latent, *told), ("output",)),
            "guided_inverse": ((latent, *told, *null, temperature, scale), ("output",)),
        }
        if isinstance(spec.objective, Objective) and spec.objective.weighs_norms:
            signatures[TRAINING] = signatures["forward"][0], ("output", "log_det", "penalty")
        if self.scale == "none":
            signatures["variances"] = (Port("z", latent.type, "state"),), ("output",)
        solve = spec.sampler.fixed_point() if isinstance(spec.sampler, Sampler) else None
        methods = {
            method: add_method(mb, name, method, _METHODS[method](self, entries, prefix, solve), ports, static, outputs)
            for method, (ports, outputs) in signatures.items()
        }
        sizes = {"rms": int(not self.block.parts()[2].CENTRED), "shifts": int(self.scale == "none")}
        return Network(name, methods, self.PROVIDES, sizes=sizes)

    def flow(self, i: int, entries: tuple[Entry, ...], prefix: int) -> Flow:
        """The parts of flow i."""
        told = self.told_flow(i)
        final_norm = self.final_norm
        assert final_norm is None or isinstance(final_norm, Norm)
        return Flow(
            self.block,
            self.weights,
            entries if told else (),
            prefix if told else 0,
            self.positions is not None,
            self.start_token,
            self.scale,
            self.soft_clip,
            final_norm,
            self.guides,
        )

    def told_flow(self, i: int) -> bool:
        """Whether flow i is told the conditions."""
        return self.told_flows == "all" or i == self.flows - 1

    def sizes_of(self, i: int, static: Mapping[str, Any]) -> dict[str, Any]:
        """The static arguments of flow i, of those of the network."""
        sizes = {"dim": static["width"], **{k: v for k, v in static.items() if k not in _OF_NETWORK}}
        if self.depths is not None:
            sizes["depth"] = self.depths[i]
        if self.last_width is not None and i == self.flows - 1:
            own = self.block.static(self.last_width)
            if not self.block.parts()[0].own_head_size:
                own["heads"] = self.last_width // self.head_dim
            sizes |= {"dim": self.last_width, **own}
        return sizes


_Method = Callable[[TransformerFlow, tuple[Entry, ...], int, FixedPoint | None], BlockBody]
_OF_NETWORK = ("size", "patch", "channels", "width", "flows")


def _rotary(
    config: TransformerFlow, b: Builder, static: Mapping[str, Any], prefix: int
) -> tuple[tuple[Var, ...], tuple[Var, ...]]:
    """Rotary tables of tokens alone, and with the tokens of conditions before them."""
    if not isinstance(config.positions, Positions):
        return (), ()
    grid = static["size"] // static["patch"]
    size = static.get("head_width", static["width"] // static["heads"])
    full = config.positions.rotary(b, size, grid, prefix)
    if not prefix:
        return full, full
    stop = prefix + grid**2
    own = tuple(b.slice(t, axis=0, start=prefix, stop=stop, out=n) for t, n in zip(full, ("cos", "sin"), strict=True))
    return own, full


def _forward_of(norms: bool) -> _Method:
    @cache
    def made(config: TransformerFlow, entries: tuple[Entry, ...], prefix: int, _: FixedPoint | None) -> BlockBody:
        @module_class("TransformerFlow", *((TRAINING,) if norms else ()), x="B channels size size")
        def forward(b: Builder, x: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
            """The latent of x, and the log-determinant of the map per dimension."""
            patch, flows = static["patch"], static["flows"]
            grid, features = static["size"] // patch, static["channels"] * patch**2
            tokens = Named(grid**2, "T")
            x = patchify(b, x, patch, out="x", tokens=tokens, channels_last=config.channels_last)
            order = b.arange(tokens, out="order")
            if not config.reverse_first:
                order = _reversed(b, order, grid**2)
            rotary, prefixed = _rotary(config, b, static, prefix)
            total = b.full(x, shape=(), value=0.0, dtype="f32", out="log_det")
            squares: list[Var] = []
            for i, name in enumerate(items("blocks", flows)):
                order = _reversed(b, order, grid**2)
                if norms:
                    squares.append(b.mean(x * x, axes=(1, 2), keepdims=False, out="squares"))
                if not config.depth_of(i):
                    continue
                parts = config.flow(i, entries, prefix)
                x, *log_det = as_tuple(
                    b.sub(
                        name,
                        flow(parts),
                        x,
                        order,
                        *(prefixed if parts.prefix else rotary),
                        *(conditions if parts.entries else ()),
                        out="x log_det" if parts.scales else "x",
                        features=features,
                        tokens=grid**2,
                        **config.sizes_of(i, static),
                    )
                )
                for own in log_det:
                    total = b.add(total, own, out="log_det")
            if not norms:
                return x, total
            return x, total, reduce(lambda a, s: b.add(a, s, out="penalty"), squares)

        if norms:
            forward.body.__doc__ = "The same, and the sum of the mean squares of what flows are given."
        return forward

    return made


def _reversed(b: Builder, order: Var, tokens: int) -> Var:
    return b.op("sub", b.scalar(tokens - 1, order), order, out="order")  # type: ignore[no-any-return]


def _inverse_of(guided: bool) -> _Method:
    @cache
    def made(config: TransformerFlow, entries: tuple[Entry, ...], prefix: int, solve: FixedPoint | None) -> BlockBody:
        count = len(ports_of(entries))

        @module_class("TransformerFlow", "guided_inverse" if guided else "inverse", z="B T=(size//patch)**2 C")
        def inverse(b: Builder, z: Var, *others: Var, **static: Any) -> Var:
            """The sample of which z is the latent."""
            patch, flows, channels, size = (static[name] for name in ("patch", "flows", "channels", "size"))
            grid, features = size // patch, channels * patch**2
            tokens = Named(grid**2, "T")
            x = z
            if config.scale == "none":
                x = b.mul(z, b.sqrt(prior_variance(b, tokens, features)), out="x")
            order = b.arange(tokens, out="order")
            if int(flows) % 2 != config.reverse_first:
                order = _reversed(b, order, tokens)
            rotary, prefixed = _rotary(config, b, static, prefix)
            for name in reversed(items("blocks", flows)):
                i = int(name.i)
                order = _reversed(b, order, tokens)
                if not config.depth_of(i):
                    continue
                parts = config.flow(i, entries, prefix)
                how: Guidance = "none"
                given = others[:count] if parts.entries else ()
                if guided and config.told_flow(i):
                    how, given = config.guidance, others
                elif guided and config.guidance == "density":
                    how, given = "tempered", (*given, others[-2])
                x = b.sub(
                    name,
                    flow_inverse(parts, how, solve),
                    x,
                    order,
                    *(prefixed if parts.prefix else rotary),
                    *given,
                    out="x",
                    features=features,
                    tokens=grid**2,
                    **config.sizes_of(i, static),
                )
            if config.channels_last:
                return image(b, x, channels, grid, patch, side=size)
            return unpatchify(b, x, (channels, size, size), patch=patch)

        return inverse

    return made


_METHODS: dict[str, _Method] = {
    "forward": _forward_of(norms=False),
    TRAINING: _forward_of(norms=True),
    "inverse": _inverse_of(False),
    "guided_inverse": _inverse_of(True),
    "variances": lambda *_: variances,
}
