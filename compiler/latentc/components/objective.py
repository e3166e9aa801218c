"""The base class of objectives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from latentc.components.condition import encoders
from latentc.components.contract import (
    Need,
    Network,
    Program,
    Rounds,
    Update,
)
from latentc.components.parts import Part
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.components.processes.process import Parameterization
    from latentc.spec.schema import Spec


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
    """What is learned, and by which losses."""

    DENOISES: ClassVar[bool] = False  # true if it has a parameterization
    DISTILS: ClassVar[bool] = False
    """Whether networks learn from a teacher. Conditions are never dropped; the guidance scale may be one of them."""
    AVERAGES: ClassVar[bool] = False
    """Whether networks learn velocities averaged over a span of time, which is one of their conditions."""

    CONSISTENT: ClassVar[bool] = False
    """Whether networks learn where trajectories end, to which samplers then jump."""

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """The networks it trains or reads, and what they must be able to do."""
        return ()

    @property
    def further_networks(self) -> tuple[str, ...]:
        """Networks that it trains besides `main`, its adapters and the encoders of conditions."""
        return ()

    def trained(self, spec: Spec) -> tuple[str, ...]:
        """The networks it trains: `main`, its adapters, the encoders of conditions and `further_networks`, unless they
        are frozen."""
        encoding = (network for name, part in spec.conditions.items() for network in encoders(name, part, spec))
        adapters = (name for name, network in spec.networks.items() if getattr(network, "adapts", None) == "main")
        named = ("main", *adapters, *dict.fromkeys(encoding), *self.further_networks)
        return tuple(n for n in named if getattr(spec.networks.get(n), "trainable", True))

    @property
    def reads_features(self) -> bool:
        """Whether it reads what the last layer of an autoencoder maps to data."""
        return False

    @property
    def score_decay(self) -> float | None:
        """Decay of the averages of its scores that its discriminator must keep; None: it needs none."""
        return None

    @property
    def predicted_augmentations(self) -> tuple[tuple[str, int], ...]:
        """(name, number of parameters) of the augmentations that its discriminator must predict by features."""
        return ()

    @property
    def path_decay(self) -> float | None:
        """Decay of the average length of paths that its generator must keep; None: it needs none."""
        return None

    @property
    def weighs_norms(self) -> bool:
        """Whether it weighs the squares of what each of several flows in a row is given."""
        return False

    @property
    def anneals(self) -> bool:
        """Whether entropies in an autoencoder's penalty weigh a factor that it gives, f32[]."""
        return False

    def parameterization(self) -> Parameterization | None:
        """The forward process and what the network predicts of it; None if it trains no denoiser."""
        return None

    def out_channels(self, channels: int) -> int:
        """Channels a network returns for data of `channels`."""
        return channels

    def most_known(self, tokens: int) -> int:
        """How many of a sample's `tokens` its loss leaves visible at most to a network that predicts the others."""
        return tokens

    def growing(self, spec: Spec) -> GrowingGrids | None:
        """Its time grids, if they get more steps in training."""
        return None

    @property
    def in_rounds(self) -> Rounds | None:
        """The rounds in which it trains; None for one."""
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
