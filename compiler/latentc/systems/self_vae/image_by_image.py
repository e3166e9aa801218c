"""The programs of a variational autoencoder that makes images from simpler images of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import Conditions, Operands, call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32
from latentc.systems.self_vae.densities import bound, drawn, images_of
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source

MADE = "simpler"
"""The condition of a request that is the image made of a sample."""


class ImageByImage(Sampler):
    """Draws the simplest image, and from each image the one that it was made of (Gatopoulos and Tomczak 2020,
    arXiv:2010.02014).

    Further programs: `from_simpler` draws samples given the image that is made of them, `simpler` f32[B, C, S, S], such
    as the same at half the resolution; `log_likelihood` estimates log p(x | conditions) in nats from below, by
    importance weights of latents drawn from the posteriors (Burda et al. 2016, arXiv:1509.00519).
    """

    kind: Literal["image_by_image"]
    pixels: Literal["likeliest", "drawn"] = Field(
        "likeliest",
        description="pixels of every image: the mean of their likeliest component, as the authors do, or drawn",
    )
    likelihood_samples: int = Field(
        16, gt=0, le=65_536, description="draws of latents per sample by which `log_likelihood` estimates"
    )
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "supervise_itself"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "image_by_image", "likelihood_samples": 2}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: noise of latents, and of pixels if they are drawn, and the conditions -> samples."""
        network, conditions, entry = networks["main"], Conditions(spec, networks), "sample.1"
        last = _last(network)
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        run = _Run(self, b, network, cond)
        z = run.noise(last)
        if "prior_draw" in network.methods:
            z = call(b, network, "prior_draw", {}, noise=z, out="z")
        image = run.pixels(last, z)
        for k in reversed(range(last)):
            z = run.latents(k, image, z)
            image = run.pixels(k, z, image)
        b.output(image)
        mb.entries[entry] = b.finish("Draws image after image, the simplest first.")
        evaluations = 1 + 2 * last + ("prior_draw" in network.methods)
        return Program(entry, self.kind, 1, evaluations, {**run.sources, **conditions.sources()})

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds entries `sample.1`, `log_likelihood` and, if there are transformations, `from_simpler`."""
        found = (self.build(mb, networks, spec), self._log_likelihood(mb, networks, spec))
        return (*found, self._from_simpler(mb, networks, spec)) if _last(networks["main"]) else found

    def _from_simpler(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `from_simpler`: image 1, noise and the conditions -> samples."""
        name, network, conditions = "from_simpler", networks["main"], Conditions(spec, networks)
        b = mb.function(name)
        image = b.input(MADE, network.methods["posterior_1"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b))
        run = _Run(self, b, network, cond)
        mean, log_variance = call(b, network, "posterior_1", cond, state=image, out="mean log_variance")
        z = drawn(b, mean, log_variance, run.noise(1)).z
        b.output(run.pixels(0, run.latents(0, image, z), image))
        mb.entries[name] = b.finish("Samples, given the image that is made of them.")
        field = spec.data.fields["x"]
        given = Condition(MADE, "array", tuple(int(d) for d in image.shape[1:]), "f32", field.axes)
        sources = {MADE: ConditionSource(MADE), **run.sources, **conditions.sources()}
        return Program(name, self.kind, 1, 3, sources, name=name, conditions=(given,))

    def _log_likelihood(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `log_likelihood`: data x and the conditions, noise f32[N, B, ...] -> log p(x) in nats f32[B]."""
        name, network, conditions = "log_likelihood", networks["main"], Conditions(spec, networks)
        last, count = _last(network), self.likelihood_samples
        b = mb.function(name)
        x = b.input("x", network.methods["posterior_0"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b))
        latent = network.methods["log_prob_0"].input("noise").type
        noise = [b.input(f"noise_{k}", f32(count, *latent.shape)) for k in range(last + 1)]
        images = images_of(b, network, x)
        moments: list[Var] = []
        for k, image in enumerate(images):
            moments += call(b, network, f"posterior_{k}", cond, state=image, out=f"mean_{k} log_variance_{k}")

        def weight(b: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]) -> Any:
            images, moments, given = kept[: last + 1], kept[last + 1 : 3 * last + 3], kept[3 * last + 3 :]
            latents = {k: drawn(b, moments[2 * k], moments[2 * k + 1], rows[k]) for k in range(last + 1)}
            likelihood, divergence = bound(b, network, dict(zip(cond, given, strict=True)), images, latents)
            return (), (b.op("sub", likelihood, divergence, out="log_weight"),)

        kept = [*images, *moments, *cond.values()]
        (weights,) = b.loop(f"{name}.weights", count, weight, invariants=kept, tables=noise)
        b.output(b.add(b.logsumexp(weights, axis=0, out="total"), -log(count), out=name))
        mb.entries[name] = b.finish("A lower bound of the log-likelihood of x in nats, from importance weights.")
        field = spec.data.fields["x"]
        sources: dict[str, Source] = {"x": ConditionSource("x"), **conditions.sources()}
        sources |= {f"noise_{k}": RandomSource("normal", f"posterior_{k}", count) for k in range(last + 1)}
        each = last + 1 + last + ("prior_log_prob" in network.methods)
        given = Condition("x", "array", field.shape, "f32", field.axes)
        evaluations, outputs = last + 1 + each * count, (OutputField(name),)
        return Program(name, self.kind, 1, evaluations, sources, name=name, outputs=outputs, conditions=(given,))


def _last(network: Network) -> int:
    """The number of the last image."""
    return sum(name.startswith("posterior_") for name in network.methods) - 1


class _Run:
    """A program that draws images, and the sources of its random numbers."""

    def __init__(self, sampler: ImageByImage, b: Builder, network: Network, cond: Operands) -> None:
        self.sampler, self.b, self.network, self.cond = sampler, b, network, cond
        self.sources: dict[str, Source] = {}

    def noise(self, k: int) -> Var:
        """Normal noise for the latents of image k."""
        name = f"noise_{k}"
        self.sources[name] = RandomSource("normal", name)
        return self.b.input(name, self.network.methods["log_prob_0"].input("noise").type)

    def latents(self, k: int, image: Var, z: Var) -> Var:
        """Latents of image k from their prior, given image k + 1 and its latents."""
        out = "prior_mean prior_log_variance"
        mean, log_variance = call(self.b, self.network, f"prior_{k}", self.cond, state=image, noise=z, out=out)
        return drawn(self.b, mean, log_variance, self.noise(k)).z

    def pixels(self, k: int, z: Var, *simpler: Var) -> Var:
        """Image k, given its latents and image k + 1 if there is one."""
        name, port = f"pixels_{k}", self.network.methods[f"draw_{k}"].inputs_of("noise")[1]
        if self.sampler.pixels == "drawn":
            self.sources[name] = RandomSource("uniform", name)
            u = self.b.input(name, port.type)
        else:  # uniform numbers of 1/2: see `UnitMixture`
            u = self.b.full(z, shape=port.type.shape[1:], value=0.5, dtype="f32", out=name)
        state = {"state": simpler[0]} if simpler else {}
        out = "x" if k == 0 else f"image_{k}"
        return call(self.b, self.network, f"draw_{k}", self.cond, noise=[z, u], out=out, **state)  # type: ignore[no-any-return]
