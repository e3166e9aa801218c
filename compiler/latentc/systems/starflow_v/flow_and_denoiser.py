"""The likelihood of a flow, and the noise estimator that learns beside it.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network
from latentc.components.kit import Operands, call, per_sample_mean
from latentc.components.kit.flows import log_density
from latentc.components.objective import not_frozen
from latentc.components.objectives.log_likelihood import LogLikelihood
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var


class FlowAndDenoiser(LogLikelihood):
    """`log_likelihood`, and STARFlow-V's denoiser (Gu et al. 2025, arXiv:2511.20462).

    The denoiser learns the noise in the data from the gradient of the flow's log-density.
    """

    kind: Literal["flow_and_denoiser"]  # type: ignore[assignment]
    denoiser: str = Field("denoiser", description="network that learns the noise in the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "flow_and_denoiser"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return *super().needs(spec), Need(self.denoiser, "estimate_noise", place=("denoiser",))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.noise != "gaussian" or not self.std:
            message = "a denoiser learns to remove Gaussian noise, but none is added"
            yield Problem(("denoiser",), message, "set `noise: gaussian` and `std`, or use `log_likelihood`")

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (*super().trained(spec), *not_frozen(spec, self.denoiser))

    def further(
        self, b: Builder, mb: ModuleBuilder, networks: Mapping[str, Network], cond: Operands, x: Var
    ) -> dict[str, Var]:
        """The mean squared error f32[B] of the estimated noise against that of the density, both over `std`."""
        network = networks["main"]
        density, ports = log_density(mb, network), network.methods["forward"].inputs
        given = [x if port.role == "state" else cond[port.name] for port in ports]
        at = next(i for i, port in enumerate(ports) if port.role == "state")
        _, score = b.gradient(density, "", given, wrt=(at,), out="log_p score")
        wanted = b.stop_gradient(score * -self.std, out="wanted")
        noise = call(b, networks[self.denoiser], "forward", cond, state=x, out="noise")
        error = b.op("sub", noise * (1 / self.std), wanted, out="error")
        return {"denoising": per_sample_mean(b, error * error, out="denoising")}
