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
        count = dimensions(z)
        # log_det is a mean over the dimensions.
        b.output(b.add(normal_log_density(b, z), log_det * float(count), out="log_p"), z)
        b.finish("Log-density of x in nats under the flow, and its latent z.")
    return name


def normal_log_density(b: Builder, z: Var) -> Var:
    """f32[B]: log-density of z under the standard normal distribution, in nats."""
    squares = b.sum(z * z, axes=tuple(range(1, z.type.rank)), keepdims=False, out="squares")
    return b.add(squares * -0.5, -0.5 * log(2 * pi) * dimensions(z), out="log_p")  # type: ignore[no-any-return]


__all__ = ["dimensions", "log_density", "normal_log_density"]
