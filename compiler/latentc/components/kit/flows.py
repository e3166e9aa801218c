"""The density of a normalising flow."""

from __future__ import annotations

from math import log, pi, prod

from latentc.components.contract import Network
from latentc.components.kit.calls import call
from latentc.ir.builder import Builder, ModuleBuilder, Var


def dimensions(z: Var) -> int:
    """The number of dimensions of one sample."""
    return prod(int(d) for d in z.shape[1:])  # type: ignore[arg-type]


def log_density(mb: ModuleBuilder, network: Network) -> str:
    """The name of a function of what a flow's `forward` takes: log p(x) in nats f32[B], and the latent."""
    name = "log_density"
    if name not in mb.functions:
        b = mb.function(name)
        ports = network.methods["forward"].inputs
        given = {port.name: b.input(port.name, port.type) for port in ports}
        x = given[network.methods["forward"].input("state").name]
        z, log_det = call(b, network, "forward", given, state=x, out="z log_det")
        # log_det is a mean over the dimensions.
        log_det = b.mul(log_det, float(dimensions(z)), out="log_det")
        for variances in prior_variances(b, network, z):
            spread = b.sum(b.log(variances), axes=(0, 1), keepdims=False) * 0.5
            z, log_det = b.div(z, b.sqrt(variances), out="z"), b.op("sub", log_det, spread, out="log_det")
        b.output(b.add(normal_log_density(b, z), log_det, out="log_p"), z)
        b.finish("Log-density of x in nats under the flow, and its latent z.")
    return name


def prior_variances(b: Builder, network: Network, z: Var) -> list[Var]:
    """[f32[T, C]]: the variances of the prior of latents z f32[B, T, C], or nothing if they are 1."""
    if "variances" not in network.methods:
        return []
    return [call(b, network, "variances", {}, state=z, out="variances")]


def normal_log_density(b: Builder, z: Var) -> Var:
    """f32[B]: log-density of z under the standard normal distribution, in nats."""
    squares = b.sum(z * z, axes=tuple(range(1, z.type.rank)), keepdims=False, out="squares")
    return b.add(squares * -0.5, -0.5 * log(2 * pi) * dimensions(z), out="log_p")
