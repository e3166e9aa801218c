"""BigGAN's generator, which also shows its feature maps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.blocks.gan_blocks import NormKind
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network
from latentc.components.networks._gan import ConditionKind
from latentc.components.networks.resnet_generator import ResnetGenerator, feature_maps
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, module_class


class FeaturedGenerator(ResnetGenerator):
    """A `resnet_generator`, of the same weights, whose feature maps the term `smoothness` compares (Sushko et al. 2023,
    arXiv:2308.09717).
    """

    kind: Literal["featured_generator"]  # type: ignore[assignment]
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate", "generate_with_features"})
    EXAMPLE: ClassVar[dict[str, Any]] = {**ResnetGenerator.EXAMPLE, "kind": "featured_generator"}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        network = super().build(mb, name, spec, out_channels)
        outputs: list[Role] = ["output" for _ in self.channel_multipliers]
        features = self.method(mb, name, spec, "features", _features, outputs)
        return replace(network, methods={**network.methods, "features": features})


@cache
def _features(config: ResnetGenerator, norm: NormKind, names: tuple[ConditionKind, ...]) -> BlockBody:
    @module_class("Generator", "features", z="B latent_dim")
    def features(b: Builder, z: Var, *given: Var, width: int, channels: int, **sizes: Any) -> tuple[Var, ...]:
        """The first feature map of noise z, and that after each level."""
        return tuple(feature_maps(b, config, norm, names, z, given, width, sizes))

    return features
