"""A control adapter: a copy of another network's first blocks, whose outputs are added to that network's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.capabilities import Capability
from latentc.components.condition import Condition
from latentc.components.contract import Network
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder
from latentc.systems.ccm.controls import CONTROL, control_method, control_points, controlled


class Adapter(Backbone):
    """Adds conditions to a trained network (ControlNet, Zhang et al. 2023, arXiv:2302.05543; for consistency models
    CCM, Xiao et al. 2023, arXiv:2312.06971). It is a copy of the beginning of the other network, with its own
    weights and conditions. Each of its blocks' outputs passes a zero-initialised linear layer and is added to the
    output of the other network's block; in a U-Net, encoder outputs are added to the skips that the other's decoder
    reads, and the middle's to the other's middle. Evaluating that network evaluates the adapter first. The outputs
    of several adapters of one network are added.
    """

    kind: Literal["adapter"]
    network: str = Field("main", description="the adapted network")
    blocks: int | None = Field(
        None,
        gt=0,
        le=512,
        description="number of the other network's blocks that it copies, from the first; for a U-Net, number of "
        "encoder outputs, followed by the middle; null: all",
    )
    in_turn: tuple[str, ...] = Field(
        (),
        max_length=64,
        description="its own conditions that are trained one at a time: each training sample gets one, drawn at "
        "random, so that the adapter learns to follow each alone (CCM)",
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"control"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adapter", "blocks": 1}

    @property
    def adapts(self) -> str:
        return self.network

    def original(self, spec: Spec) -> Backbone | None:
        """The network that it adapts; None if there is none that has an architecture of its own."""
        found = spec.networks.get(self.network)
        fits = isinstance(found, Backbone) and found.same_as is None and found.adapts is None
        return found if fits else None  # type: ignore[return-value]

    def _copied(self, spec: Spec) -> Backbone:
        """The other network, with the conditions of this one."""
        original = self.original(spec)
        assert original is not None  # `problems` has looked
        return original.model_copy(update={"conditions": self.conditions})

    def takes(self, spec: Spec) -> dict[str, Condition]:
        return {} if self.original(spec) is None else self._copied(spec).takes(spec)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        original = self.original(spec)
        if original is None:
            fitting = [n for n, net in spec.networks.items() if isinstance(net, Backbone) and net.same_as is None]
            what = "is not an architecture to adapt" if self.network in spec.networks else "does not exist"
            yield Problem(("network",), f"network `{self.network}` {what}", f"name one of {', '.join(fitting)}")
            return
        if original.pretrained is None:
            message = f"network `{self.network}`, which this adapts, has no weights: its `pretrained` names no file"
            yield Problem((), message, f"train it, then name its checkpoint in `networks.{self.network}.pretrained`")
        yield from self._problems_of_turns(spec, original)
        target = spec.objective.parameterization() if spec.objective is not None else None
        if target is not None and target.averaged:
            message = "the objective differentiates the network, but the derivative would leave out the adapter"
            yield Problem((), message, "use an objective such as `diffusion`, `flow` or `consistency_training`")
        copied = self._copied(spec)
        found = [*copied.problems_of_conditions(spec)]
        yield from found
        if not found and not any(True for _ in original.problems(spec)):
            try:
                mb = ModuleBuilder()
                networks = {n: net.build(mb, n, spec, 1) for n, net in ((self.network, original), ("adapter", self))}
                self.attached(mb, "adapter", networks, spec)
            except ValueError as error:
                yield Problem(("blocks",), f"a {original.kind} cannot be adapted here: {error}")

    def _problems_of_turns(self, spec: Spec, original: Backbone) -> Iterator[Problem]:
        """Refuses `in_turn` conditions that it lacks, that the adapted network has as well, or that have no null."""
        cond, others = self.takes(spec), original.takes(spec)
        for i, name in enumerate(self.in_turn):
            if name not in cond:
                yield Problem(
                    ("in_turn", i), f"the adapter does not take condition `{name}`", f"it takes {', '.join(cond)}"
                )
            elif name in others:
                message = f"network `{self.network}` also takes `{name}`, and would lose it in other turns"
                yield Problem(("in_turn", i), message, f"leave it out of `networks.{self.network}.conditions`")
            elif not cond[name].dropout:
                message = f"`{name}` has no null value, because its `dropout` is 0"
                yield Problem(("in_turn", i), message, f"set `conditioning.{name}.dropout`")
        if len(set(self.in_turn)) < len(self.in_turn) or len(self.in_turn) == 1:
            yield Problem(
                ("in_turn",),
                "conditions can only take turns if there are several, each listed once",
                "list two or more, each once",
            )

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        kept = dict(mb.entries)
        network = self._copied(spec).build(mb, name, spec, out_channels)
        mb.entries = kept
        forward = network.methods["forward"]
        count = self.blocks or max(len(control_points(mb.functions[forward.function])), 1)
        method = control_method(mb, name, forward.function, forward.inputs, count)
        return Network(name, {CONTROL: method}, self.PROVIDES, network.sizes, in_turn=self.in_turn)

    def attached(
        self, mb: ModuleBuilder, name: str, networks: Mapping[str, Network], spec: Spec
    ) -> Mapping[str, Network]:
        adapted = controlled(mb, networks[self.network], networks[name])
        mb.forget_unused()
        return {**networks, self.network: adapted}
