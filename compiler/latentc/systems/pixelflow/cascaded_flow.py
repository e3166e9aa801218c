"""Flow matching through stages of rising resolution: PixelFlow.

It is no `flow` on another process: a state's two ends are different images, at a resolution of each stage.
Symbols: B batch, K stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, i64
from latentc.ir.types import B
from latentc.systems.pixelflow.cascade_parts import Cascade
from latentc.systems.pixelflow.cascade_transformer import CascadeTransformer


class CascadedFlow(Objective):
    """The squared error of the velocity in each of K stages (PixelFlow, Chen et al. 2025, arXiv:2504.07963).

    A stage goes from an upsampled image to an image of twice the resolution, both with the same noise. The loss is the
    mean over all stages of every sample; the authors draw one stage per sample.
    """

    kind: Literal["cascaded_flow"]
    stages: int = Field(4, gt=0, le=16, description="number of resolutions, each twice the previous (K)")
    steps: int = Field(1000, gt=1, le=1_000_000, description="discrete times per stage, from which training draws")
    correlation: float = Field(
        -1 / 3,
        ge=-1 / 3,
        lt=0,
        description="correlation of the noise of two pixels in a 2 x 2 block between stages (gamma)",
    )
    NEEDS = "denoise_stages"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "cascaded_flow", "stages": 2}

    @property
    def cascade(self) -> Cascade:
        return Cascade(self.stages, self.steps, self.correlation)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        if isinstance(main, CascadeTransformer) and main.stages != self.stages:
            message = f"the network has {main.stages} stages, but the objective has {self.stages}"
            yield Problem(("stages",), message, f"set `networks.main.stages` to {self.stages}")
        smallest = 2**self.stages
        if spec.data.shape is not None and spec.data.shape[-1] % smallest:
            size = spec.data.shape[-1]
            message = f"{size} cannot be halved {self.stages} times; each stage starts from an image of half its side"
            yield Problem(("stages",), message, f"use a side that is a multiple of {smallest}, or fewer stages")
        if self.steps < self.stages:
            yield Problem(("steps",), f"{self.steps} times of {self.stages} stages", "use more")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.inputs(b, by_field=True)
        cond = conditions.dropped(b, conditions.operands(b, given))
        images = [x]
        for _ in range(self.stages):
            images.insert(0, b.avg_pool(images[0], size=2, out="smaller"))
        draws, losses = [], []
        for stage in range(self.stages):
            losses.append(self._of_stage(b, network, cond, stage, images[stage], images[stage + 1]))
            draws += [Draw(f"t_{stage}", "integers", {"high": self.steps}), Draw(f"noise_{stage}", "normal")]
        total = summed(b, "total", losses)
        b.output(b.mul(total, 1.0 / self.stages, out="loss"))
        b.finish("The squared error of the velocity, a mean over the stages, one value per sample.")
        every = (*conditions.drawn(), *conditions.draws(), *draws)
        return publish(mb, ("loss",), ("x", *conditions.fields), every, self.trained(spec))

    def _of_stage(
        self, b: Builder, network: Network, cond: Mapping[str, Var], stage: int, smaller: Var, image: Var
    ) -> Var:
        """f32[B]: the loss of one stage. Adds its draws as inputs."""
        method = "forward" if stage == self.stages - 1 else f"stage_{stage}"
        t, noise = b.input(f"t_{stage}", i64(B)), b.input(f"noise_{stage}", image.type)
        start, end = self.cascade.start(stage), self.cascade.end(stage)
        shift, scale = self.cascade.network_time(stage)
        local = b.div(b.cast(t, to="f32"), float(self.steps), out="local")
        first = weighted_sum(b, "first", (start, b.upsample_nearest(smaller, factor=2)), (1.0 - start, noise))
        last = weighted_sum(b, "last", (end, image), (1.0 - end, noise))
        velocity = b.op("sub", last, first, out="velocity")
        column = b.reshape(local, shape=(B, 1, 1, 1), out="column")
        x_t = b.op("add", first, column * velocity, out="x_t")
        time = b.add(local * scale, shift, out="time")
        side = b.full(time, shape=(), value=float(self.cascade.side(network, stage)), dtype="f32", out="side")
        cond = {**cond, "side": side}
        error = b.op("sub", call(b, network, method, cond, state=x_t, time=time, out="prediction"), velocity)
        return per_sample_mean(b, error * error, out="loss")
