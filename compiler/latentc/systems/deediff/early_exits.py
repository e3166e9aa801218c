"""Heads and uncertainty estimates by which another network can be left early.

Symbols: B batch, C channels, T tokens, D width, F features of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Index
from latentc.components.backbone import Backbone, public
from latentc.components.blocks.unet.layers import conv
from latentc.components.capabilities import Capability
from latentc.components.condition import TimeFeatures
from latentc.components.contract import Method, Network, Port
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, Item, ModuleBuilder, Var, f32, module_class
from latentc.ir.core import Origin, Value
from latentc.ir.types import B, Named
from latentc.systems.deediff.cuts import Cuts, cuts, head, sizes, trained


class EarlyExits(Backbone):
    """Exits after blocks of a denoiser (DeeDiff, Tang et al. 2023, arXiv:2309.17074; also called AdaDiff).

    Each exit has a head like the network's own, and estimates from the block's tokens and the time the uncertainty of
    its prediction, between 0 and 1. The blocks of a U-Net, and of another network of several resolutions, are those on
    its way down, in its middle and on its way up, in this order, and each place of a feature map is a token. Exits at a
    lower resolution have a linear layer that restores that of the output, to which one of the network's first features
    is added; another one stands for what levels that an exit leaves out would add to the output. The loss term
    `early_exit` trains both; program `exit` uses the exits.
    """

    kind: Literal["early_exits"]
    network: str = Field("main", description="the denoiser with exits")
    after: tuple[Index, ...] | None = Field(
        None,
        max_length=512,
        description="blocks followed by an exit, counted from 1, those between lists of blocks included; null: all "
        "but the last",
    )
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes the denoiser's features")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"exit"})
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "early_exits"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        original = spec.networks.get(self.network)
        if not isinstance(original, Backbone) or "denoise" not in original.provides(spec):
            what = "denoises nothing" if self.network in spec.networks else "does not exist"
            yield Problem(("network",), f"network `{self.network}` {what}", "name a denoiser, such as `main`")
            return
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        if not any(True for _ in original.problems(spec)) and isinstance(spec.time, TimeFeatures):
            try:
                mb = ModuleBuilder()
                built = original.build(mb, self.network, spec, 1)
                self._built(mb, "exits", spec, cuts(mb, built, self.after))
            except ValueError as error:
                yield Problem(("after",), f"a {original.kind} cannot have exits here: {error}")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        return Network(name, {}, self.PROVIDES)  # its methods are built once the other network exists

    def attached(
        self, mb: ModuleBuilder, name: str, networks: Mapping[str, Network], spec: Spec
    ) -> Mapping[str, Network]:
        network = networks[self.network]
        cut = cuts(mb, network, self.after)
        return {**networks, self.network: trained(mb, network, cut), name: self._built(mb, name, spec, cut)}

    def _built(self, mb: ModuleBuilder, name: str, spec: Spec, cut: Cuts) -> Network:
        """Its `forward`: time, the features of every exit, context -> the predictions, the uncertainties f32[B]."""
        assert isinstance(spec.time, TimeFeatures) and cut.fn.origin is not None
        cls, count = cut.fn.origin.cls, Named(len(cut.after), "exits")
        last, context = head(mb, cut, f"{cls}Head"), cut.context
        args: dict[str, Any] = dict(cut.fn.origin.args)
        origin = Origin(f"{cls}Exits", {**args, **spec.time.static(), "exits": count})
        b = Builder(mb, mb.unique(f"{cls}Exits.forward"), origin)
        t = b.input("t", f32(B))
        given = [[_input(b, v, i, j) for j, v in enumerate(cut.features(n))] for i, n in enumerate(cut.after)]
        cond = {v: b.input("stem" if v is cut.stem else v.name, v.type) for v in context}
        read = [cond[v] for v in context][: len(mb.functions[last].inputs) - len(cut.last)]
        features = spec.time.features(b, t, **spec.time.static())
        predictions, doubts = [], []
        for i, (number, own) in enumerate(zip(cut.after, given, strict=True)):
            item, held = Item("heads", i, count), dict(zip(cut.features(number), own, strict=True))
            maps = [held[v] for v in cut.sources(number)]
            if cut.restores:
                maps = [_restored(b, i, j, x, cut, number, cond) for j, x in enumerate(maps)]
            predictions.append(b.call(last, item, *maps, *read, args=args, out="prediction"))
        for i, (number, own) in enumerate(zip(cut.after, given, strict=True)):
            item = Item("estimators", i, count)
            mine = cut.own(number)
            x = _tokens(b, own[: len(mine)], cut.restores and cut.is_map(mine[0]))
            dims = {"dim": x.shape[-1], "frequencies": features.shape[-1]}
            doubts.append(b.sub(item, _estimator, x, features, out="doubt", **dims))
        b.output(*predictions, *doubts)
        made = b.finish("The prediction of every exit, and how uncertain each is.")
        mb.entries[f"{name}.forward"] = made
        fn = mb.functions[made]
        roles = ["time", *["control"] * (len(fn.inputs) - 1)]
        ports = tuple(Port(v.name, public(v.type), role) for v, role in zip(fn.inputs, roles, strict=True))  # type: ignore[arg-type]
        outputs = tuple(Port(v.name, public(v.type), "output") for v in fn.outputs)
        return Network(name, {"forward": Method(made, ports, outputs)}, self.PROVIDES)


def _input(b: Builder, value: Value, i: int, j: int) -> Var:
    """The input with the features of exit `i`, the `j`-th of its block."""
    return b.input(f"features_{i}" + (f"_{j}" if j else ""), value.type)


def _tokens(b: Builder, features: Sequence[Var], of_maps: bool) -> Var:
    """f32[B, T, D]: each place of maps [B, D, ...] a token; tokens of several features are joined."""
    if of_maps:
        features = [_flat(b, x) for x in features]
    return features[0] if len(features) == 1 else b.concat(*features, axis=2, out="x")


def _flat(b: Builder, x: Var) -> Var:
    """Tokens f32[B, T, D] of maps [B, D, ...]."""
    batch, channels, *space = x.shape
    flat = b.reshape(x, shape=(batch, channels, math.prod(space)), out="x")
    return b.transpose(flat, perm=(0, 2, 1), out="x")


def _maps(b: Builder, x: Var, places: Sequence[int], name: str) -> Var:
    """Maps [B, D, ...] of tokens f32[B, T, D] at `places` of a grid."""
    batch, _, channels = x.shape
    return b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=(batch, channels, *places), out=name)


def _restored(b: Builder, i: int, j: int, x: Var, cut: Cuts, number: int, cond: Mapping[Value, Var]) -> Var:
    """The `j`-th of what the tail reads, by a layer `restored_I` or `restored_I_J` unless x has its sizes already."""
    own, read = cut.sources(number)[j], cut.last[j]
    found = j < len(cut.own(number)) if own is not read else True
    if found and sizes(own) == sizes(read):
        return x
    factors, places = cut.factors(own, read), cut.places(own)
    assert factors is not None and places is not None  # `cuts` has looked
    x = x if cut.is_map(own) else _maps(b, x, places, "x")
    stem: list[Var] = []
    if cut.stem is not None and cut.places(cut.stem) == cut.places(read):
        first = cond[cut.stem]
        stem = [first if cut.is_map(cut.stem) else _maps(b, first, cut.places(cut.stem) or (), "stem")]
    as_maps = cut.is_map(read)
    dims = {"channels": x.shape[1], "width": read.type.shape[1 if as_maps else 2]}
    dims |= {"entered": stem[0].shape[1]} if stem else {}
    name = f"restored_{i}" + (f"_{j}" if j else "")
    x = b.sub(name, _restoring(*factors, bool(stem)), x, *stem, out="x", **dims)
    return x if as_maps else _flat(b, x)


@cache
def _restoring(by: tuple[int, ...], every: int, with_stem: bool) -> BlockBody:
    """Maps at a resolution that is `by` times as high along each axis, or an `every`-th along all: a linear map of each
    place, or of as many as there are to one, to which that of the network's first features is added."""
    own, whole = (" ".join(axes[-len(by) :]) for axes in ("DHW", "IJK"))
    shapes = {"x": f"B channels {own}", **({"stem": f"B entered {whole}"} if with_stem else {})}
    order = [place for k in range(len(by)) for place in (2 + len(by) + k, 2 + k)]

    @module_class("Restored", **shapes)
    def forward(b: Builder, x: Var, *stem: Var, channels: int, width: int, **entered: int) -> Var:
        """Maps [B, width, ...] at the output's resolution."""
        batch, _, *space = x.shape
        h = conv(b, "features", x, width * math.prod(by), every, "torch", stride=every, out="h")
        if math.prod(by) > 1:
            h = b.transpose(b.reshape(h, shape=(batch, width, *by, *space)), perm=(0, 1, *order))
            h = b.reshape(h, shape=(batch, width, *(side * n for side, n in zip(space, by, strict=True))), out="h")
        for first in stem:
            h = b.add(h, conv(b, "stem", first, width, 1, "torch"), out="h")
        return h

    return forward


@module_class("UncertaintyEstimator", x="B T dim", features="B frequencies")
def _estimator(b: Builder, x: Var, features: Var, *, dim: int, frequencies: int) -> Var:
    """How uncertain a prediction from these tokens is, between 0 and 1: the mean over the tokens."""
    of_time = b.reshape(dense(b, "time", features, 1, False, "zeros"), shape=(x.shape[0], 1, 1), out="of_time")
    u = b.sigmoid(dense(b, "tokens", x, 1, True, "zeros") + of_time, out="u")
    return b.mean(u, axes=(1, 2), keepdims=False, out="u")
