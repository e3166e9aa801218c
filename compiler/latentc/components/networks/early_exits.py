"""Heads and uncertainty estimates by which another network can be left early.

Symbols: B batch, T tokens, D width, F features of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Index
from latentc.components.backbone import Backbone, public
from latentc.components.capabilities import Capability
from latentc.components.condition import TimeFeatures
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.exits import Cuts, cuts, head, trained
from latentc.components.parts import Problem, dense
from latentc.ir.blocks import Item
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.core import Origin
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class EarlyExits(Backbone):
    """Exits after blocks of a denoiser (DeeDiff, Tang et al. 2023, arXiv:2309.17074; also called AdaDiff).

    Each exit has a head like the network's own, and estimates from the tokens and the time the uncertainty of its
    prediction, between 0 and 1. The loss term `early_exit` trains both; `sampler.exit` uses the exits.
    """

    kind: Literal["early_exits"]
    network: str = Field("main", description="the denoiser with exits")
    after: tuple[Index, ...] | None = Field(
        None,
        max_length=512,
        description="blocks followed by an exit, counted from 1; null: all but the last",
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
        """Its `forward`: time, the tokens of every exit, context -> the predictions, the uncertainties f32[B]."""
        assert isinstance(spec.time, TimeFeatures) and cut.fn.origin is not None
        cls, count = cut.fn.origin.cls, Named(len(cut.after), "exits")
        last, context = head(mb, cut, f"{cls}Head"), cut.context
        args: dict[str, Any] = dict(cut.fn.origin.args)
        origin = Origin(f"{cls}Exits", {**args, **spec.time.static(), "exits": count})
        b = Builder(mb, mb.unique(f"{cls}Exits.forward"), origin)
        t = b.input("t", f32(B))
        tokens = [b.input(f"tokens_{i}", cut.tokens(number).type) for i, number in enumerate(cut.after)]
        given = [b.input(v.name, v.type) for v in context]
        features = spec.time.features(b, t, **spec.time.static())
        sizes = {"dim": tokens[0].shape[-1], "frequencies": features.shape[-1]}
        heads = zip((Item("heads", i, count) for i in range(count)), tokens, strict=True)
        predictions = [b.call(last, item, x, *given, args=args, out="prediction") for item, x in heads]
        estimators = zip((Item("estimators", i, count) for i in range(count)), tokens, strict=True)
        doubts = [b.sub(item, _estimator, x, features, out="doubt", **sizes) for item, x in estimators]
        b.output(*predictions, *doubts)
        made = b.finish("The prediction of every exit, and how uncertain each is.")
        mb.entries[f"{name}.forward"] = made
        fn = mb.functions[made]
        roles = ["time", *["control"] * (len(fn.inputs) - 1)]
        ports = tuple(Port(v.name, public(v.type), role) for v, role in zip(fn.inputs, roles, strict=True))  # type: ignore[arg-type]
        outputs = tuple(Port(v.name, public(v.type), "output") for v in fn.outputs)
        return Network(name, {"forward": Method(made, ports, outputs)}, self.PROVIDES)


@module_class("UncertaintyEstimator", x="B T dim", features="B frequencies")
def _estimator(b: Builder, x: Var, features: Var, *, dim: int, frequencies: int) -> Var:
    """How uncertain a prediction from these tokens is, between 0 and 1: the mean over the tokens."""
    of_time = b.reshape(dense(b, "time", features, 1, False, "zeros"), shape=(x.shape[0], 1, 1), out="of_time")
    u = b.sigmoid(dense(b, "tokens", x, 1, True, "zeros") + of_time, out="u")
    return b.mean(u, axes=(1, 2), keepdims=False, out="u")  # type: ignore[no-any-return]


__all__ = ["EarlyExits"]
