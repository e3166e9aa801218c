"""The base class of objectives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.capabilities import Capability
from latentc.components.condition import encoders
from latentc.components.contract import Clustering, Need, Network, Program, Rounds, Update
from latentc.components.parts import Part, Spec
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.components.processes.process import Parameterization


def not_frozen(spec: Spec, *networks: str) -> tuple[str, ...]:
    """Those of the networks that are trained; one that is missing is reported by the need for it."""
    return tuple(name for name in networks if name not in spec.networks or spec.networks[name].trainable)


@dataclass(frozen=True)
class GrowingGrids:
    """Time grids of ever more steps.

    `first` is the number of steps that the spec gives the first; the grid of `steps[i]` steps is used from step
    `starts[i]` of training on.
    """

    first: int
    starts: tuple[int, ...]
    steps: tuple[int, ...]


class Objective(Part):
    """The losses, and the networks that they train."""

    DISTILS: ClassVar[bool] = False
    """Whether networks learn from a teacher. Conditions are never dropped; the guidance scale may be one of them."""

    NEEDS: ClassVar[Capability | None] = None
    """Capability that `main` must provide, where nothing else is needed."""

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """The networks it trains or reads, and the capabilities that they need."""
        return () if self.NEEDS is None else (Need("main", self.NEEDS),)

    def trained(self, spec: Spec) -> tuple[str, ...]:
        """The networks it trains: `main`, its adapters and the encoders of conditions, unless they are frozen."""
        encoding = (network for name, part in spec.conditions.items() for network in encoders(name, part, spec))
        adapters = (name for name, network in spec.networks.items() if network.adapts == "main")
        return not_frozen(spec, "main", *adapters, *dict.fromkeys(encoding))

    def parameterization(self) -> Parameterization | None:
        """The forward process and the quantity that the network predicts; None if it trains no denoiser."""
        return None

    def out_channels(self, channels: int) -> int:
        """Channels a network returns for data of `channels`."""
        return channels

    def growing(self, spec: Spec) -> GrowingGrids | None:
        """Its time grids, if they get more steps in training."""
        return None

    @property
    def rounded(self) -> tuple[str, ...]:
        """Weights of `main` whose layers training rounds as a quantised engine does; none as a rule."""
        return ()

    @property
    def rounds_narrowly(self) -> bool:
        """Whether their int8 weights have 7 bits."""
        return False

    @property
    def in_rounds(self) -> Rounds | None:
        """The rounds in which it trains; None for one."""
        return None

    @property
    def clustering(self) -> Clustering | None:
        """How training finds the labels as clusters of the data; None if it reads them."""
        return None

    @property
    def reward_settings(self) -> tuple[dict[str, Any], ...]:
        """The rewards of its rollouts, as config.yaml of a training project holds them."""
        return ()

    def rollout(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, drawn: Program) -> Program | None:
        """Adds the program that draws the samples of its updates' rollouts, beside the sampler's `drawn`, if any do."""
        return None

    @abstractmethod
    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        """Adds the losses to the module as entries `loss` (and `loss.terms`, one value per sample)."""
