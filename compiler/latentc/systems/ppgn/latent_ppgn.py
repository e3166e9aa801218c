"""Samples of a class by steps on the code of an autoencoder that knows no classes.

Symbols: B batch, C channels of the code, N steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Steps
from latentc.components.backbone import Backbone
from latentc.components.blocks.bottlenecks.gaussian import Gaussian
from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Conditions, call, first_channels
from latentc.components.networks.autoencoder import Autoencoder
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B
from latentc_runtime.sources import RandomSource, Source


class LatentPpgn(Sampler):
    """Joint PPGN-h (Nguyen et al. 2017, arXiv:1612.00005, equation 11): steps on the code h of an autoencoder.

    h becomes h + prior (R(h) - h) + class_step d log p(y | G(h)) / dh + noise e. G decodes a code, R encodes what G
    makes of it, so that R(h) - h leads to likely codes; p is that of the network `observer`, e is standard normal.
    """

    kind: Literal["latent_ppgn"]
    steps: Steps = Field(200, description="number of steps (N)")
    observer: str = Field("observer", description="one of `networks`: a frozen classifier of clean samples")
    prior: float = Field(1e-5, ge=0, le=1, description="share of the way to the reconstructed code (epsilon 1)")
    class_step: float = Field(1.0, gt=0, le=1e6, description="step along the gradient of log p(y | x) (epsilon 2)")
    noise: float = Field(
        1e-17, ge=0, le=1e3, description="standard deviation of the noise added in each step (epsilon 3)"
    )
    start: float = Field(1.0, ge=0, le=1e3, description="standard deviation of the codes that it starts from")
    guidance: None = Field(None, description="always null: the classifier guides")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "latent_ppgn", "steps": 3, "prior": 0.1, "noise": 0.01}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "autoencode"), Need(self.observer, "classify", place=("observer",))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main, eye, label = spec.networks.get("main"), spec.networks.get(self.observer), spec.conditions.get("class")
        if not (isinstance(main, Autoencoder) and isinstance(main.bottleneck, Gaussian)):
            message = f"`{self.kind}` moves codes of real numbers, which `main` does not have"
            yield Problem((), message, "use an autoencoder with `bottleneck: {kind: gaussian}`")
        if label is None or [port.type for port in label.ports("class", spec)] != [i64(B)]:
            message = "the classifier leads to a class, but requests do not have one"
            yield Problem((), message, "add `conditioning.class: {kind: label, dropout: 0}`")
        if isinstance(eye, Backbone) and eye.trainable:
            message = f"network `{self.observer}` is not frozen"
            yield Problem(("observer",), message, f"name its checkpoint in `networks.{self.observer}.pretrained`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.N`: z f32[B, C, ...], the class and noise f32[N, B, C, ...] -> one sample each."""
        main, conditions = networks["main"], Conditions(spec, {}, ("class",))
        code = main.methods["decode"].input("state").type
        log_probability = _log_probability(mb, main, networks[self.observer])
        entry = f"sample.{self.steps}"
        b = mb.function(entry)
        z = b.input("z", code)
        (y,) = conditions.operands(b, conditions.inputs(b)).values()
        noise = b.input("noise", f32(self.steps, *code.shape))
        first = z if self.start == 1.0 else b.mul(z, self.start, out="h")

        def body(
            inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[Var, ...]]:
            (h,), (e,) = carried, rows
            _, slope = inner.gradient(log_probability, "", [h, kept[0]], wrt=(0,), out="log_probability slope")
            moved = inner.add(h, slope * self.class_step, out="h")
            if self.prior:
                images = call(inner, main, "decode", {}, state=h, out="images")
                codes = call(inner, main, "encode", {}, state=images, out="codes")
                seen = first_channels(inner, codes, h)  # their means
                moved = inner.add(moved, inner.op("sub", seen, h) * self.prior, out="h")
            if self.noise:
                moved = inner.add(moved, e * self.noise, out="h")
            return (moved,), ()

        (h,) = b.loop(
            f"{entry}.code", self.steps, body, invariants=[y], carried=[first], tables=[noise], names=["h", "noise"]
        )
        b.output(call(b, main, "decode", {}, state=h, out="x"))
        mb.entries[entry] = b.finish(doc=f"{self.steps} steps on the code of a sample, then the sample.")
        sources: dict[str, Source] = {
            "z": RandomSource("normal", "z"),
            "noise": RandomSource("normal", "noise", self.steps),
            **conditions.sources(),
        }
        return Program(entry, self.kind, self.steps, self.steps + 1, sources)


def _log_probability(mb: ModuleBuilder, main: Network, eye: Network) -> str:
    """A function of codes f32[B, C, ...] and classes i64[B] -> the log-probability f32[B] of the class of the image."""
    b = mb.function("log_probability")
    h, y = b.input("h", main.methods["decode"].input("state").type), b.input("y", i64(B))
    images = call(b, main, "decode", {}, state=h, out="images")
    logits = call(b, eye, "forward", {}, state=images, out="logits")
    b.output(b.neg(b.cross_entropy(logits, y), out="log_probability"))
    return b.finish("log p(y | x) of what a code is decoded to.")
