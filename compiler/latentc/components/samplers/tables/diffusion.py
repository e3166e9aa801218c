"""Tables of the ancestral and implicit samplers of variance-preserving diffusion: DDPM and DDIM."""

from __future__ import annotations

from typing import Literal

import numpy as np

from latentc.components.prediction import Prediction, conversion
from latentc.components.samplers.tables.core import Table
from latentc.components.samplers.tables.grids import Grid

Variance = Literal["fixed_small", "fixed_large", "learned_range"]


def ddpm(grid: Grid, predicts: Prediction, variance: Variance = "fixed_small", clip: float | None = None) -> Table:
    """Ancestral sampling (Ho et al. 2020, equations 6 and 7, on the grid's own coarser chain).

    The estimate is x0. `variance` of a step: the posterior's (`fixed_small`), the coarse chain's beta
    (`fixed_large`), or between the two by the network's second half of channels, interpolated in the
    logarithm (`learned_range`; improved DDPM, Nichol and Dhariwal 2021, equation 15). The last step takes no
    noise.

    ValueError: a grid that ends at sigma > 0, or a conversion that does not exist.
    """
    if grid.sigma[-1] != 0.0:
        raise ValueError("DDPM ends at the data: the grid's last sigma must be 0")
    d_x, d_output = conversion(predicts, "x0", grid.evaluated)
    kept = grid.alpha[:-1] ** 2  # alphas_cumprod at the step's start, and at its end
    kept_next = grid.alpha[1:] ** 2
    beta = 1.0 - kept / kept_next
    posterior = beta * (1.0 - kept_next) / (1.0 - kept)
    columns = {
        "t": grid.t,
        "d_x": d_x,
        "d_output": d_output,
        "x": (1.0 - kept_next) * np.sqrt(kept / kept_next) / (1.0 - kept),
        "d": beta * grid.alpha[1:] / (1.0 - kept),
    }
    noisy = np.ones(grid.steps)
    noisy[-1] = 0.0
    if variance == "learned_range":
        # The last posterior variance is 0: its logarithm is that of the step before (improved DDPM); no noise
        # is added there, so a single-step chain may take anything finite.
        floor = posterior[-2] if grid.steps > 1 else beta[-1]
        columns["noise"] = noisy
        low, high = np.log(np.append(posterior[:-1], floor)), np.log(beta)
        columns["log_center"] = (high + low) / 4  # halves of the log variance: of the log deviation
        columns["log_span"] = (high - low) / 4
        return Table("ddpm", "learned_variance", columns, clip=clip)
    columns["noise"] = noisy * np.sqrt(posterior if variance == "fixed_small" else beta)
    return Table("ddpm", "linear", columns, clip=clip)


def ddim(grid: Grid, predicts: Prediction, eta: float = 0.0, clip: float | None = None) -> Table:
    """DDIM (Song et al. 2021, equation 12): deterministic at `eta` 0, DDPM's posterior variance at 1.

    The estimate is x0; the noise follows from x and the (clipped) estimate. At eta 0 it is the first-order
    exponential integrator, for any grid; other etas are of a variance-preserving one.
    """
    d_x, d_output = conversion(predicts, "x0", grid.evaluated)
    alpha, sigma, alpha_next, sigma_next = grid.alpha[:-1], grid.sigma[:-1], grid.alpha[1:], grid.sigma[1:]
    columns = {"t": grid.t, "d_x": d_x, "d_output": d_output}
    direction = sigma_next
    if eta > 0.0:
        added = eta * sigma_next / sigma * np.sqrt(1.0 - alpha**2 / alpha_next**2)
        direction = np.sqrt(np.maximum(sigma_next**2 - added**2, 0.0))
        columns["noise"] = added
    columns["x"] = direction / sigma
    columns["d"] = alpha_next - direction * alpha / sigma
    return Table("ddim", "linear", columns, clip=clip)
