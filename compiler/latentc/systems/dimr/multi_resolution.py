"""Branches at several resolutions, from coarse to fine: DiMR.

A file of its own: unlike the stages of a U-Net, each branch sees the whole input at its resolution, has skips inside
(U-ViT's) and an output of its own, and hands the features of all its blocks to the next.

Symbols: B batch, C channels, D width of a branch, T its tokens, K outputs of the branch below, joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Component
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.tokens import joined
from latentc.components.layers import conv, patch_conv
from latentc.components.networks._stages import Heads, long_skips
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, Named
from latentc.systems.dimr.axial_rotary import AxialAttention
from latentc.systems.dimr.timed_norms import TimedLayerNorm

NORM = TimedLayerNorm(kind="timed_layer_norm")
"""Of what enters from the branch below, and before each output."""


class Branch(Closed):
    """One resolution of a `multi_resolution` network."""

    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    half: int = Field(ge=0, le=256, description="blocks before the middle one, and as many after it")
    patch: int = Field(1, gt=0, le=1_024, description="side of a patch, in pixels of this branch's input")
    shrink: int = Field(
        1, gt=0, le=1_024, description="factor by which the branch's input is first downsampled by averaging"
    )
    block: Literal["coarse", "fine"] = Field("fine", description="block repeated in the branch")
    heads: Heads | None = Field(None, description="heads of the mixer; null: as set in the mixer")
    kernel: int | None = Field(
        None, gt=0, le=63, description="kernel size of a convolution as mixer, odd; null: as set in the mixer"
    )
    ratio: float | None = Field(
        None,
        gt=0,
        le=1_024,
        description="hidden width of the feed-forward as a multiple of the width; null: as set in the feed-forward",
    )

    @property
    def scale(self) -> int:
        """Pixels of the input to a side of a token."""
        return self.patch * self.shrink

    @property
    def outputs(self) -> int:
        """How many outputs its blocks have, its input counted."""
        return 2 * self.half + 2


class MultiResolution(Backbone):
    """Branches of blocks from the lowest resolution to the highest (DiMR, Liu et al. 2024, arXiv:2406.09416).

    Takes x f32[B, C, H, H], t f32[B] and its conditions as tokens, which enter branches of the `coarse` block; returns
    f32[B, C_out, H, H]. Its blocks can attend to conditions with several tokens. In training it also returns the other
    branches' predictions at their resolutions, from coarse to fine.
    """

    kind: Literal["multi_resolution"]
    branches: tuple[Branch, ...] = Field(min_length=1, max_length=8, description="branches from coarse to fine")
    coarse: Block = Field(description="block of coarse branches, which take the conditions")
    fine: Block = Field(description="block of fine branches")
    detached: bool = Field(False, description="no gradient flows from a branch into coarser ones")
    output_kernel: int = Field(
        3, gt=0, le=63, description="kernel size of the convolution that maps a branch to its output"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "multi_resolution",
        "branches": [{"width": 16, "half": 1, "patch": 2, "block": "coarse"}, {"width": 8, "half": 1}],
        "coarse": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "swiglu", "ratio": 2.0},
            "norm": {"kind": "timed_rms_norm"},
            "condition": {"kind": "time_norm"},
        },
        "fine": {
            "mixer": {"kind": "convnext_conv", "kernel": 3},
            "feed_forward": {"kind": "swiglu", "ratio": 2.0},
            "norm": {"kind": "timed_rms_norm"},
            "condition": {"kind": "time_norm"},
        },
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return tuple(f"width_{i}" for i in range(len(self.branches) - 1))

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        return ("coarse",) if len(self.branches) > 1 else ()

    def blocks(self, branch: Branch) -> Block:
        """The block that a branch repeats."""
        block = self.coarse if branch.block == "coarse" else self.fine
        mixer, feed_forward, _, _ = block.parts()
        own: dict[str, Component] = {}
        if branch.kernel is not None:
            own["mixer"] = mixer.model_copy(update={"kernel": branch.kernel})
        if branch.ratio is not None:
            sizes = {"ratio": branch.ratio, **({"hidden": None} if "hidden" in type(feed_forward).model_fields else {})}
            own["feed_forward"] = feed_forward.model_copy(update=sizes)
        return block.model_copy(update=own)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square arrays [C, H, H], but the data has {spec.data.words}")
            return
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        if self.output_kernel % 2 == 0:
            message = f"a kernel of side {self.output_kernel} has no centre: it must be odd"
            yield Problem(("output_kernel",), message, f"use {self.output_kernel + 1}")
        if isinstance(spec.time, TimeFeatures) and spec.time.static()["frequencies"] != 1:
            message = f"a {self.kind} takes the time as a single number"
            yield Problem((), message, "use `conditioning.time: {kind: scalar}`")
        if self.coarse.spatial and any(not self._looked_at(entry) for entry in self.entries(spec)):
            message = "the tokens are a square and one per condition, but the mixer needs a square alone"
            yield Problem(
                ("coarse", "mixer"),
                message,
                "use `{kind: attention}`, or leave out the conditions",
            )
        if self.entries(spec) and all(branch.block == "fine" for branch in self.branches):
            message = "blocks of kind `fine` take no condition but the time, and no branch has others"
            help = "use `block: coarse` in a branch, or leave out the conditions (`conditions: []`)"
            yield Problem(("branches", 0, "block"), message, help)
        below: Branch | None = None
        for i, branch in enumerate(self.branches):
            yield from self._problems_of_branch(i, branch, below, shape[1])
            below = branch
        if self.branches[-1].scale != 1:
            message = (
                f"the last branch predicts one value per {self.branches[-1].scale} pixels along a "
                "side, not one per pixel"
            )
            help = "use `patch: 1` and no `shrink` there"
            yield Problem(("branches", len(self.branches) - 1, "patch"), message, help)

    def _looked_at(self, entry: Entry) -> bool:
        """True if blocks attend to its tokens; False if they join those of the sample."""
        return self.coarse.parts()[3].takes_tokens and (entry.ports[0].type.rank or 1) > 1

    def _problems_of_branch(self, i: int, branch: Branch, below: Branch | None, side: int) -> Iterator[Problem]:
        if side % branch.scale:
            message = f"squares of {branch.scale} pixels do not tile a side of {side}"
            yield Problem(("branches", i, "patch"), message)
            return
        if below is not None and below.scale % branch.scale:
            message = (
                f"the tokens of a branch must divide those of the branch before it: {branch.scale} "
                f"pixels do not divide {below.scale}"
            )
            yield Problem(("branches", i, "patch"), message)
        of = self.coarse if branch.block == "coarse" else self.fine
        for name, part in (("kernel", of.mixer), ("ratio", of.feed_forward)):
            if getattr(branch, name) is not None and name not in type(part).model_fields:
                yield Problem(("branches", i, name), f"`{part.kind}` has no `{name}`", "leave it out")
                return
        if branch.kernel is not None and branch.kernel % 2 == 0:
            message = f"a kernel of side {branch.kernel} has no centre: it must be odd"
            yield Problem(("branches", i, "kernel"), message, f"use {branch.kernel + 1}")
        block = self.blocks(branch)
        of_condition = block.problems_of_condition(self.kind, "the time", None, tokens=branch.block == "coarse")
        for problem in (*of_condition, *block.problems_of_width(branch.width, side // branch.scale)):
            if problem.path[:1] == ("block",):
                yield Problem((branch.block, *problem.path[1:]), problem.message, problem.help)
            elif branch.heads is None:
                yield Problem(("branches", i, "width"), problem.message, problem.help)
        if branch.heads is not None and branch.width % branch.heads:
            message = f"{branch.heads} heads do not divide the width of {branch.width}"
            yield Problem(("branches", i, "heads"), message)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        channels, size, _ = spec.data.shape
        static: dict[str, Any] = {"size": size, "channels": channels}
        for i, branch in enumerate(self.branches):
            static |= {f"width_{i}": branch.width, f"half_{i}": branch.half}
        static |= {**self.condition_sizes(spec), "out_channels": out_channels}
        entries = self.entries(spec)
        sizes: dict[str, int | tuple[int, ...]] = {
            "branches": len(self.branches),
            "half": tuple(branch.half for branch in self.branches),
            "most": max(branch.half for branch in self.branches),
        }
        ports = (Port("x", f32(B, channels, size, size), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward, in_training = _methods(self, spec.time, entries)
        methods = {"forward": add_method(mb, name, "forward", forward, ports, static)}
        if len(self.branches) > 1:
            roles: list[Role] = ["output", *("features" for _ in self.branches[1:])]  # type: ignore[list-item]
            methods["train_forward"] = add_method(mb, name, "train_forward", in_training, ports, static, roles)
        return Network(name, methods, self.PROVIDES, sizes=sizes)


@cache
def _methods(config: MultiResolution, time: TimeFeatures, entries: tuple[Entry, ...]) -> tuple[BlockBody, BlockBody]:
    """`forward`, the finest output; `train_forward`, it and the others from coarse to fine."""
    last = len(config.branches) - 1

    def network(b: Builder, x: Var, t: Var, conditions: tuple[Var, ...], every: bool, static: Any) -> list[Var]:
        cond = time.features(b, t, **time.static())
        size = static["size"]
        ends: list[Var] = []
        features: list[Var] = []
        for i, branch in enumerate(config.branches):
            own = {name: static[f"{name}_{i}"] for name in ("width", "half")} | {"size": size}
            seen = entries if branch.block == "coarse" else ()
            own |= {k: static[k] for entry in seen for k in _sizes_of(entry, static)}
            body = _branch(config, i, seen)
            made = b.sub(f"branches.{i}", body, x, cond, *features, *(conditions if seen else ()), out="h", **own)
            end, *features = made if isinstance(made, tuple) else (made,)
            if every or i == last:
                sizes = {"dim": end.shape[2], "grid": size // branch.scale, "channels": static["out_channels"]}
                word = "out" if i == last else "coarse"
                ends.append(b.sub(f"outputs.{i}", _output(config.output_kernel), end, cond, out=word, **sizes))
        return [ends[-1], *ends[:-1]]

    @module_class("MultiResolution", x="B channels size size")
    def forward(b: Builder, x: Var, t: Var, *conditions: Var, **static: Any) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        return network(b, x, t, conditions, False, static)[0]

    @module_class("MultiResolution", "train_forward", x="B channels size size")
    def train_forward(b: Builder, x: Var, t: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
        """The same, and what each other branch predicts at its resolution."""
        return tuple(network(b, x, t, conditions, True, static))

    return forward, train_forward


def _sizes_of(entry: Entry, static: Mapping[str, Any]) -> list[str]:
    """The static arguments that a condition's embedding is built from."""
    own = {"size", "channels", "out_channels"}
    return [k for k in static if k not in own and not k.startswith(("width_", "half_"))]


@cache
def _branch(config: MultiResolution, index: int, entries: tuple[Entry, ...]) -> BlockBody:
    branch, below = config.branches[index], config.branches[index - 1] if index else None
    of = config.blocks(branch)
    mixer, feed_forward, norm, condition = of.parts()
    block = condition.block(mixer, feed_forward, norm, "normal")
    finest = index == len(config.branches) - 1

    def body(b: Builder, x: Var, t: Var, others: tuple[Var, ...], width: Any, half: Any, size: Any, static: Any) -> Any:
        grid = size // branch.scale
        tokens = Named(int(grid * grid), "T", "grid ** 2")
        if branch.shrink > 1:
            x = b.avg_pool(x, size=branch.shrink, out="x")
        x = patch_conv(b, "x_embedder", x, width, branch.patch, "linear_default")
        x = as_tokens(b, x, tokens)
        if not isinstance(mixer, AxialAttention):
            x = x + b.param("positions", f32(1, grid**2, width), "normal", std=0.02)
        if below is not None:
            ratio = below.scale // branch.scale
            x = x + b.sub("enter", _enter(ratio), others[0], t, dim=others[0].shape[2], features=width, grid=grid)
            others = others[1:]
        before, context = 0, list[tuple[Var, Var | None]]()
        for entry, operands in with_operands(entries, others):
            looked_at = config._looked_at(entry)
            any_width = looked_at and condition.takes_any_width
            embedded, mask = entry.tokens(b, entry.prefix, operands, width, static, any_width)
            if looked_at:
                context.append((embedded, mask))
                continue
            before += embedded.shape[1]
            x = b.concat(embedded, x, axis=1, out="x")
        sizes = {**of.static(width), "grid": grid, **({"heads": branch.heads} if branch.heads else {})}
        tokens_of = joined(b, context)
        sizes = {**of.own(width, sizes), **({"context": len(tokens_of)} if tokens_of else {})}
        operands = (*((t,) if condition.TAKES == "the time" else ()), *tokens_of)
        every = long_skips(b, block, x, operands, half, width, sizes)
        made = [every[-1]]
        if not finest:
            features = b.concat(*every, axis=2, out="features")
            made.append(b.stop_gradient(features, out="features") if config.detached else features)
        if before:  # tokens of the conditions come first
            made = [b.slice(v, axis=1, start=before, stop=tokens + before, out=v.value.name) for v in made]
        return made[0] if finest else tuple(made)

    @module_class("FinestBranch" if finest else "Branch")
    def forward(b: Builder, x: Var, t: Var, *others: Var, width: int, half: int, size: int, **static: Any) -> Any:
        """One resolution: tokens of x, and the outputs of all blocks joined for the branch above."""
        return body(b, x, t, others, width, half, size, static)

    return forward


@cache
def _enter(ratio: int) -> BlockBody:
    @module_class("Enter")
    def forward(b: Builder, x: Var, t: Var, *, dim: int, features: int, grid: int) -> Var:
        """Features of the branch below as tokens of this one: each becomes a square of them."""
        batch, low = x.shape[0], grid // ratio
        x = dense(b, "linear", NORM.at(b, "norm1", x, t, None), ratio * ratio * features, True, "normal", out="x")
        x = b.reshape(x, shape=(batch, low, low, ratio, ratio, features))
        x = b.reshape(b.transpose(x, perm=(0, 1, 3, 2, 4, 5)), shape=(batch, grid * grid, features), out="x")
        return NORM.at(b, "norm2", x, t, None)

    return forward


@cache
def _output(kernel: int) -> BlockBody:
    @module_class("Output")
    def forward(b: Builder, x: Var, t: Var, *, dim: int, grid: int, channels: int) -> Var:
        """The prediction of a branch at its resolution."""
        return conv(b, "conv", as_map(b, NORM.at(b, "norm", x, t, None), grid), channels, kernel, "linear_default")

    return forward
