"""Denoising and masked autoencoding at once: unified masked diffusion.

Not `diffusion`: its network predicts both data and noise, where patches are hidden and where they are seen.
Symbols: B batch, C channels, T patches, P patch side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.objectives.denoising import noised
from latentc.components.parts import Fraction, Spec
from latentc.components.processes.discrete import Discrete
from latentc.components.processes.process import Parameterization, Process
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B


class MaskedDiffusion(Objective):
    """Hides patches of noisy and of clean images (UMD, Hansen-Estruch et al. 2024, arXiv:2406.17688).

    For a noisy image, the network predicts the noise at visible patches and the data at hidden ones; for a clean image
    (time 0), the data at hidden patches. Every sample is trained both ways, with weights 1 - `clean` and `clean`; the
    authors divide the batch instead.
    """

    kind: Literal["masked_diffusion"]
    process: Annotated[Process, OneOf("processes")] = Field(
        Discrete(kind="discrete", schedule="cosine", time_offset=1.0), description="the forward process"
    )
    hidden: Fraction = Field(0.375, description="fraction of the patches of a noisy image that are hidden")
    clean: Fraction = Field(0.5, description="fraction of images without noise; 0: none")
    sampling: Literal["noise", "x0"] = Field(
        "noise", description="which of the two predictions is used for sampling; both are trained"
    )
    clean_hidden: Fraction = Field(0.75, description="fraction of the patches of a clean image that are hidden")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_diffusion"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        # The shares of hidden patches, in the order of the network's methods; and whether `forward` returns the data.
        ratios = (self.hidden, *((self.clean_hidden,) if self.clean else ()))
        asks = {"hidden_ratios": ratios, "samples_data": self.sampling == "x0"}
        return Need("main", "denoise"), Need("main", "denoise_hidden", asks=asks)

    def parameterization(self) -> Parameterization:
        return Parameterization(self.process, self.sampling)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", network.methods["forward"].input("state").type)
        given = conditions.inputs(b, by_field=True)
        at = noised(b, self.parameterization(), x0)
        operands = conditions.operands(b, given)
        cond = conditions.dropped(b, operands)
        draws = [*at.draws, *conditions.drawn(), *conditions.draws()]
        prediction, hidden, drawn = self._predicted(b, network, "noisy", 0, self.hidden, cond, at.x_t, at.network_time)
        draws += drawn
        data, noise = b.split(prediction, axis=1, sizes=(x0.shape[1], x0.shape[1]), out="data noise_hat")
        of_noise = _error(b, noise, at.noise, None if hidden is None else b.op("sub", 1.0, hidden, out="seen"))
        of_data = _error(b, data, x0, hidden)
        loss = noisy = b.mul(of_noise + of_data, 0.5, out="noisy")
        if self.clean:
            none = conditions.null(b, operands)  # clean images are never given their class
            zero = b.mul(at.network_time, 0.0, out="zero")
            which = 1 if self.hidden else 0
            made, hidden, drawn = self._predicted(b, network, "clean", which, self.clean_hidden, none, x0, zero)
            draws += drawn
            data = b.slice(made, axis=1, start=0, stop=x0.shape[1], out="data")
            clean = _error(b, data, x0, hidden)
            loss = weighted_sum(b, "loss", (1.0 - self.clean, noisy), (self.clean, clean))
            b.output(loss, noisy, clean)
        else:
            b.output(loss)
        b.finish("Squared errors of the noise where patches are seen, and of the data where they are hidden.")
        names = ("loss", "noisy", "clean") if self.clean else ("loss",)
        return publish(mb, names, ("x", *conditions.fields), tuple(draws), self.trained(spec))

    def _predicted(
        self, b: Builder, network: Network, name: str, which: int, ratio: float, cond: Operands, x: Var, time: Var
    ) -> tuple[Var, Var | None, tuple[Draw, ...]]:
        """Data and noise f32[B, 2 C, H, W], where patches are hidden f32[B, 1, H, W], and the draws."""
        if not ratio:
            made, _ = call(b, network, "predict", cond, state=x, time=time, out="prediction representation")
            return made, None, ()
        method = f"predict_hidden_{which}"
        scores = b.input(f"scores_{name}", network.methods[method].input("noise").type)
        names = "prediction representation mask"
        made, _, mask = call(b, network, method, cond, state=x, time=time, noise=scores, out=names)
        grid = round(int(mask.shape[1]) ** 0.5)
        hidden = b.reshape(mask, shape=(B, 1, grid, grid))
        hidden = b.upsample_nearest(hidden, factor=int(x.shape[2]) // grid, out="hidden")
        return made, hidden, (Draw(f"scores_{name}", "uniform"),)


def _error(b: Builder, made: Var, wanted: Var, where: Var | None) -> Var:
    """f32[B]: the mean squared error, over the pixels where `where` f32[B, 1, H, W] is 1."""
    error = b.op("sub", made, wanted, out="error")
    squares = b.mul(error, error, out="squares")
    if where is None:
        return per_sample_mean(b, squares, out="mse")
    return b.div(per_sample_mean(b, squares * where), per_sample_mean(b, where), out="mse")
