"""A variational autoencoder that makes images from simpler images of themselves.

Image 0 is the sample, image k + 1 is made of image k by a transformation without weights, K is the last image. Symbols:
B batch, C channels of an image, S_k side of image k, Z channels and L side of the latents of an image, E size of the
embedded conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Method, Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.self_vae.densenets import dense_decoder, dense_encoder, dense_network
from latentc.systems.self_vae.densities import standard_log_prob
from latentc.systems.self_vae.mixture import UnitMixture
from latentc.systems.self_vae.real_nvp import Flow, flow_body
from latentc.systems.self_vae.transforms import Transform, side_after, transformed

BOUND = 7.0
"""Greatest magnitude of a log-variance."""
CLASS = "SelfVae"


class Dense(Closed):
    """A DenseNet that may change the resolution."""

    growth: Size = Field(description="channels that each block appends at the resolution of its input")
    steps: int = Field(gt=0, le=64, description="number of blocks per layer")


class Deep(Dense):
    """A DenseNet at one resolution."""

    layers: int = Field(3, gt=0, le=64, description="number of layers")


class SelfVae(Backbone):
    """A hierarchy of images, each with latents (Gatopoulos and Tomczak 2020, arXiv:2010.02014).

    Latents f32[B, Z, L, L] of image k have a posterior given that image, and a prior given image k + 1 and its latents.
    Pixels are mixtures of discretised logistics, given image k + 1 and the latents. Conditions are embedded, and join
    every input as channels. Without transformations it is a variational autoencoder with a flow as its prior.
    """

    kind: Literal["self_vae"]
    transforms: tuple[Transform, ...] = Field(
        ("downscale",), max_length=8, description="what makes each image of the previous, from the sample on"
    )
    latent_channels: int = Field(16, gt=0, le=65_536, description="channels of the latents of an image (Z)")
    latent_side: int = Field(8, gt=0, le=65_536, description="side of the latents of an image (L)")
    mixture: int = Field(10, gt=0, le=1_024, description="number of logistic components per pixel")
    values: int = Field(256, gt=1, le=65_536, description="number of levels of the data from -1 to 1")
    embedding: int = Field(32, gt=0, le=65_536, description="dimension of each embedded condition")
    output_std: float = Field(
        0.01,
        gt=0,
        le=100,
        description="standard deviation of the outputs of each convolution for the first batch, from which weight "
        "norm starts; small ones take long to use the latents",
    )
    prior: Flow | None = Field(
        Flow(), description="the flow whose noise the latents of the last image are; null: they are standard normal"
    )
    posterior: Dense = Field(Dense(growth=16, steps=4), description="encoder of an image, except for the last")
    last_posterior: Dense = Field(Dense(growth=64, steps=3), description="encoder of the last image")
    image_prior: Dense = Field(Dense(growth=32, steps=5), description="encoder of an image for the prior of latents")
    latent_prior: Deep = Field(Deep(growth=64, steps=3), description="network of its latents for that prior")
    joint_prior: Deep = Field(Deep(growth=64, steps=3), description="network of both for that prior")
    likelihood: Dense = Field(Dense(growth=64, steps=8), description="decoder of latents, except for the last image")
    joint_likelihood: Deep = Field(
        Deep(growth=64, steps=5), description="network of decoded latents and the simpler image, enlarged"
    )
    last_likelihood: Dense = Field(Dense(growth=128, steps=4), description="decoder of the latents of the last image")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"supervise_itself"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "self_vae",
        "latent_channels": 2,
        "latent_side": 2,
        "mixture": 2,
        "embedding": 3,
        "prior": {"scales": 1, "growth": 2, "steps": 1},
        **{
            name: {"growth": 4, "steps": 1}
            for name in ("posterior", "last_posterior", "image_prior", "likelihood", "last_likelihood")
        },
        **{
            name: {"growth": 4, "steps": 1, "layers": 1} for name in ("latent_prior", "joint_prior", "joint_likelihood")
        },
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels", "embedding")

    @property
    def last(self) -> int:
        """The number of the last image (K)."""
        return len(self.transforms)

    @property
    def distribution(self) -> UnitMixture:
        return UnitMixture(self.mixture, self.values)

    def sides(self, side: int) -> list[int]:
        """The sides of all images, the sample's first."""
        found = [side]
        for kind in self.transforms:
            found.append(side_after(found[-1], kind))
        return found

    def levels(self, side: int) -> int:
        """Halvings from an image of this side to its latents."""
        return (side // self.latent_side).bit_length() - 1

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} makes square images [C, S, S], but the data has {spec.data.words}")
        elif shape[0] not in (1, 3):
            yield Problem((), f"a {self.kind} makes pixels of 1 or 3 channels, but these have {shape[0]}")
        else:
            yield from self._problems_of_sides(shape[1])
        yield from self._problems_of_prior()
        yield from self.problems_of_conditions(spec)

    def _problems_of_sides(self, side: int) -> Iterator[Problem]:
        sides = self.sides(side)
        for i, (kind, before) in enumerate(zip(self.transforms, sides, strict=False)):
            if before % 2 if kind == "downscale" else before < 2:
                yield Problem(
                    ("transforms", i), f"`{kind}` takes no image of side {before}", "use fewer transformations"
                )
                return
        for k, own in enumerate(sides):
            if own % self.latent_side or own != self.latent_side << max(0, self.levels(own)):
                message = f"image {k} has side {own}, which halvings do not bring to that of its latents"
                help = f"use a `latent_side` that is {sides[-1]} or a half, a quarter … of it"
                yield Problem(("latent_side",), message, help)
                return
            name = "likelihood" if k < self.last else "last_likelihood"
            decoder: Dense = getattr(self, name)
            if decoder.growth >> max(0, self.levels(own) - 1) == 0:
                message = f"a growth of {decoder.growth} cannot be halved at each of {self.levels(own)} levels"
                yield Problem((name, "growth"), message, f"use {1 << self.levels(own) - 1} or more")
                return

    def _problems_of_prior(self) -> Iterator[Problem]:
        if self.prior is None:
            return
        if self.prior.scales > 1 and self.latent_side % 2:
            message = f"latents of side {self.latent_side} cannot be halved for a second scale"
            yield Problem(("prior", "scales"), message, "use `scales: 1`")
        if self.latent_side == 1 and self.latent_channels % 2:
            message = f"the flow couples two halves of the channels, but there are {self.latent_channels}"
            yield Problem(("latent_channels",), message, "use an even number")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        entries, sides = self.entries(spec), self.sides(side)
        conditions = ports_of(entries)
        images = [f32(B, channels, own, own) for own in sides]
        latent = f32(B, self.latent_channels, self.latent_side, self.latent_side)
        static = {
            "channels": channels,
            "latent_channels": self.latent_channels,
            "mixture": self.mixture,
            **({"embedding": self.embedding} if entries else {}),
            **self.condition_sizes(spec),
        }
        methods: dict[str, Method] = {}
        one: tuple[Role, ...] = ("output",)

        def add(method: str, body: BlockBody, ports: tuple[Port, ...], outputs: tuple[Role, ...] = ("output",)) -> None:
            methods[method] = add_method(mb, name, method, body, ports, static, outputs)

        z = Port("z", latent, "noise")
        if self.last:
            add("transform", _transform(self), (Port("x", images[0], "state"),), one * self.last)
        for k, own in enumerate(sides):
            halvings, draws = self.levels(own), self.distribution.draws(channels)
            image = Port("x", images[k], "state")
            simpler = [Port("simpler", of, "state") for of in images[k + 1 : k + 2]]
            u = Port("u", f32(B, own, own, draws), "noise", distribution="uniform")
            add(f"posterior_{k}", _posterior(self, k, halvings, entries), (image, *conditions), ("output", "output"))
            if simpler:
                body = _prior(self, k, self.levels(sides[k + 1]), entries)
                add(f"prior_{k}", body, (*simpler, z, *conditions), ("output", "output"))
            add(f"log_prob_{k}", _log_prob(self, k, halvings, entries), (image, *simpler, z, *conditions))
            add(f"draw_{k}", _draw(self, k, halvings, entries), (*simpler, z, u, *conditions))
        if self.prior is not None:
            add("prior_log_prob", _prior_log_prob(self.prior, self.output_std), (Port("z", latent, "state"),))
            add("prior_draw", _prior_draw(self.prior, self.output_std), (Port("noise", latent, "noise"),))
        return Network(name, methods, self.PROVIDES, sizes=self._counts(sides))

    def _counts(self, sides: list[int]) -> dict[str, float]:
        """Numbers of parts, for name maps."""
        parts = {
            "posterior": self.posterior,
            "last_posterior": self.last_posterior,
            "image_prior": self.image_prior,
            "latent_prior": self.latent_prior,
            "joint_prior": self.joint_prior,
            "likelihood": self.likelihood,
            "joint_likelihood": self.joint_likelihood,
            "last_likelihood": self.last_likelihood,
        }
        counts = {f"{name}_steps": part.steps for name, part in parts.items()}
        counts |= {f"{name}_layers": part.layers for name, part in parts.items() if isinstance(part, Deep)}
        counts |= {"levels": self.levels(sides[0]), "last_levels": self.levels(sides[-1]), "last": self.last}
        flow = self.prior or Flow(scales=1, growth=1, steps=1)
        return {**counts, "scales": flow.scales if self.prior else 0, "flow_steps": flow.steps}


# Bodies of methods


def _unit(b: Builder, x: Var) -> Var:
    """Values from -1 to 1 as values from 0 to 1, which the networks see."""
    return b.mul(x + 1.0, 0.5, out=x.value.name)


class _Given:
    """The embedded conditions of a method, as channels for inputs of any resolution."""

    def __init__(
        self, b: Builder, entries: tuple[Entry, ...], conditions: tuple[Var, ...], static: dict[str, Any]
    ) -> None:
        self.b = b
        self.embedded = [
            entry.vector(b, f"{entry.name}_embedder", operands, static["embedding"], static)
            for entry, operands in with_operands(entries, conditions)
        ]

    def beside(self, *maps: Var) -> Var:
        """Maps [B, C, H, W] and the conditions, joined."""
        b, (batch, _, rows, columns) = self.b, maps[0].shape
        wide = [
            b.broadcast_to(b.reshape(c, shape=(batch, c.shape[1], 1, 1)), shape=(batch, c.shape[1], rows, columns))
            for c in self.embedded
        ]
        parts = (*maps, *wide)
        return b.concat(*parts, axis=1, out="h") if len(parts) > 1 else parts[0]


def _network(b: Builder, name: str, body: BlockBody, x: Var, own: Dense, features: Any, out: str) -> Var:
    sizes = {"channels": x.shape[1], "growth": own.growth, "steps": own.steps, "features": features}
    sizes |= {"layers": own.layers} if isinstance(own, Deep) else {}
    return b.sub(name, body, x, out=out, **sizes)  # type: ignore[no-any-return]


def _moments(b: Builder, h: Var, latent: Any) -> tuple[Var, Var]:
    mean, log_variance = b.split(h, axis=1, sizes=(latent, latent), out="mean log_variance")
    return mean, b.clamp(log_variance, low=-BOUND, high=BOUND, out="log_variance")


@cache
def _transform(config: SelfVae) -> BlockBody:
    @module_class(CLASS, "transform", x="B channels H W")
    def transform(b: Builder, x: Var, **static: Any) -> tuple[Var, ...]:
        """The images that are made of x, one of the other."""
        found = [x]
        for k, kind in enumerate(config.transforms):
            found.append(transformed(b, found[-1], kind, config.values, f"image_{k + 1}"))
        return tuple(found[1:])

    return transform


@cache
def _posterior(config: SelfVae, k: int, halvings: int, entries: tuple[Entry, ...]) -> BlockBody:
    own = config.posterior if k < config.last else config.last_posterior

    @module_class(CLASS, f"posterior_{k}", x="B channels H W")
    def posterior(b: Builder, x: Var, *conditions: Var, latent_channels: int, **static: Any) -> tuple[Var, Var]:
        """Mean and log-variance of the latents of an image."""
        x = _Given(b, entries, conditions, static).beside(_unit(b, x))
        h = _network(b, f"posteriors.{k}", dense_encoder(halvings, config.output_std), x, own, 2 * latent_channels, "h")
        return _moments(b, h, latent_channels)

    return posterior


@cache
def _prior(config: SelfVae, k: int, halvings: int, entries: tuple[Entry, ...]) -> BlockBody:
    of_images, of_latents, of_both = config.image_prior, config.latent_prior, config.joint_prior

    @module_class(CLASS, f"prior_{k}", simpler="B channels H W", z="B latent_channels L L")
    def prior(
        b: Builder, simpler: Var, z: Var, *conditions: Var, latent_channels: int, **static: Any
    ) -> tuple[Var, Var]:
        """Mean and log-variance of the latents of an image, given the image made of it and that one's latents."""
        given, name = _Given(b, entries, conditions, static), f"priors.{k}"
        body, x = dense_encoder(halvings, config.output_std), given.beside(_unit(b, simpler))
        h = b.elu(_network(b, f"{name}.image", body, x, of_images, latent_channels, "of_image"), out="of_image")
        x = _network(
            b,
            f"{name}.latents",
            dense_network(config.output_std),
            given.beside(z),
            of_latents,
            latent_channels,
            "of_latents",
        )
        h = b.concat(h, x, axis=1, out="h")
        h = _network(b, f"{name}.joint", dense_network(config.output_std), h, of_both, 2 * latent_channels, "h")
        return _moments(b, h, latent_channels)

    return prior


def _parameters(
    config: SelfVae, k: int, halvings: int, b: Builder, simpler: tuple[Var, ...], z: Var, given: _Given, features: Any
) -> Var:
    """f32[B, F, S_k, S_k]: parameters of the distribution of each pixel of image k."""
    own = config.likelihood if k < config.last else config.last_likelihood
    name, body = f"likelihoods.{k}", dense_decoder(halvings, config.output_std)
    h = _network(b, f"{name}.latents", body, given.beside(z), own, features, "h")
    if not simpler:
        return h
    (image,) = simpler
    size, joint = (int(h.shape[2]), int(h.shape[3])), config.joint_likelihood
    wide = _unit(b, image)
    wide = b.resize(wide, size=size, mode="bilinear", out="enlarged") if int(image.shape[2]) != size[0] else wide
    return _network(
        b, f"{name}.joint", dense_network(config.output_std), given.beside(wide, h), joint, features, "parameters"
    )


def _pixels(b: Builder, x: Var, out: str) -> Var:
    """[B, F, H, W] -> [B, N, F]."""
    batch, size, height, wide = x.shape
    x = b.reshape(x, shape=(batch, size, height * wide))
    return b.transpose(x, perm=(0, 2, 1), out=out)


@cache
def _log_prob(config: SelfVae, k: int, halvings: int, entries: tuple[Entry, ...]) -> BlockBody:
    count = 1 if k < config.last else 0

    @module_class(CLASS, f"log_prob_{k}", x="B channels H W")
    def log_prob(b: Builder, x: Var, *others: Var, channels: int, mixture: int, **static: Any) -> Var:
        """Log-probability of an image, given the image made of it and its own latents."""
        simpler, z, conditions = others[:count], others[count], others[count + 1 :]
        given = _Given(b, entries, conditions, static)
        features = UnitMixture(mixture).features(channels)
        h = _parameters(config, k, halvings, b, simpler, z, given, features)
        log_p = UnitMixture(mixture, config.values).log_prob(b, _pixels(b, h, "parameters"), _pixels(b, x, "pixels"))
        return b.sum(log_p, axes=(1,), keepdims=False, out="log_p")

    return log_prob


@cache
def _draw(config: SelfVae, k: int, halvings: int, entries: tuple[Entry, ...]) -> BlockBody:
    count = 1 if k < config.last else 0

    @module_class(CLASS, f"draw_{k}")
    def draw(b: Builder, *operands: Var, channels: int, mixture: int, **static: Any) -> Var:
        """An image, given the image made of it, its own latents and uniform numbers."""
        simpler, (z, u, *conditions) = operands[:count], operands[count:]
        given = _Given(b, entries, tuple(conditions), static)
        features = UnitMixture(mixture).features(channels)
        h = _parameters(config, k, halvings, b, simpler, z, given, features)
        batch, _, height, wide = h.shape
        u = b.reshape(u, shape=(batch, height * wide, u.shape[3]), out="u")
        pixels = UnitMixture(mixture, config.values).draw(b, _pixels(b, h, "parameters"), u, int(channels))
        pixels = b.transpose(pixels, perm=(0, 2, 1))
        return b.reshape(pixels, shape=(batch, channels, height, wide), out="x")

    return draw


@cache
def _prior_log_prob(flow: Flow, std: float) -> BlockBody:
    @module_class(CLASS, "prior_log_prob", z="B latent_channels L L")
    def log_prob(b: Builder, z: Var, *, latent_channels: int, **static: Any) -> Var:
        """Log-density in nats of latents of the last image."""
        noise, log_det = b.sub(
            "prior",
            flow_body(flow, std, False),
            z,
            channels=latent_channels,
            growth=flow.growth,
            steps=flow.steps,
            out="noise log_det",
        )
        return b.add(standard_log_prob(b, noise), log_det, out="log_p")

    return log_prob


@cache
def _prior_draw(flow: Flow, std: float) -> BlockBody:
    @module_class(CLASS, "prior_draw", noise="B latent_channels L L")
    def draw(b: Builder, noise: Var, *, latent_channels: int, **static: Any) -> Var:
        """Latents of the last image, of normal noise."""
        return b.sub(
            "prior",
            flow_body(flow, std, True),
            noise,
            channels=latent_channels,
            growth=flow.growth,
            steps=flow.steps,
            out="z",
        )  # type: ignore[no-any-return]

    return draw
