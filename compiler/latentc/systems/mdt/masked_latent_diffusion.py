"""Diffusion of a whole sample and of one of which the network sees only some patches.

Symbols: B batch; x0 the data, alpha and sigma the levels of data and noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, call, per_sample_mean
from latentc.components.objectives._common import noise_inputs
from latentc.components.objectives.denoising import Noised, Terms, noised_at
from latentc.components.objectives.diffusion import Diffusion, variational_bound
from latentc.components.parts import Spec
from latentc.ir.builder import ModuleBuilder, Var


class MaskedLatentDiffusion(Diffusion):
    """MDTv2's loss (Gao et al. 2023, arXiv:2303.14389): that of a diffusion plus the same with patches hidden from the
    network, at the same time with another noise. The squared error is weighted by min(SNR, `max_snr`) / SNR, or
    min(SNR, `max_snr`) if the network predicts the data (Hang et al. 2023, arXiv:2303.09556).
    """

    kind: Literal["masked_latent_diffusion"]  # type: ignore[assignment]
    max_snr: float = Field(5.0, gt=0, le=1e6, description="largest signal-to-noise ratio in the weight of the error")
    EXAMPLE: ClassVar[dict[str, Any]] = {**Diffusion.EXAMPLE, "kind": "masked_latent_diffusion"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return *super().needs(spec), Need("main", "denoise_masked")

    def says(self) -> str:
        return "The losses of predictions from the whole sample and from some of its patches, one value per sample."

    def loss(self, at: Noised, prediction: Var) -> Terms:
        b, channels = at.b, at.x0.shape[1]
        fraction = None
        if self.learns_variance:
            prediction, fraction = b.split(prediction, axis=1, sizes=(channels, channels), out="prediction fraction")
        mse = per_sample_mean(b, self.cost(b, at.error(prediction)), out="mse")
        noise = b.reshape(at.point.sigma * at.point.sigma, shape=mse.shape)
        signal = b.reshape(at.point.alpha * at.point.alpha, shape=mse.shape)
        if self.predicts == "x0":
            weight = b.minimum(signal / noise, self.max_snr, out="weight")
        else:
            weight = b.minimum(noise / signal * self.max_snr, 1.0, out="weight")
        mse = b.mul(mse, weight, out="mse")
        if fraction is None:
            return {"loss": mse}
        vb = variational_bound(at, b.stop_gradient(prediction), fraction)
        return {"loss": mse + vb, "mse": mse, "vb": vb}

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        b, network, conditions = mb.function("loss.terms"), networks["main"], Conditions(spec, networks)
        x0 = b.input("x", network.methods["forward"].input("state").type)
        read = conditions.inputs(b, by_field=True)
        noise, draws = noise_inputs(b, network.methods["masked_forward"])
        whole = self.denoised(b, networks, spec, (x0, read))
        terms = self.loss(whole.at, whole.prediction)
        at = noised_at(b, whole.at.target, x0, b.input("masked_noise", x0.type), whole.at.t)
        cond, _ = conditions.dropping(b, conditions.operands(b, read), "masked_")
        roles = {"state": at.scaled, "time": at.network_time, "noise": noise}
        prediction = call(b, network, "masked_forward", cond, out="masked_prediction", **roles)
        masked = self.loss(at, prediction)
        total = b.add(terms["loss"], masked["loss"], out="loss")
        terms = {"loss": total, "whole": terms["loss"], "masked": masked["loss"]}
        draws = (*whole.draws, Draw("masked_noise", "normal"), *conditions.draws("masked_"), *draws)
        return self.published(mb, replace(whole, draws=draws), terms, spec)
