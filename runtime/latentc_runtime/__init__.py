"""The deployed runtime of latentc: numpy and an engine, nothing else.

import latentc_runtime
pipe = latentc_runtime.load("dit-s2")
samples = pipe.sample(classes=[207, 360], seeds=[0, 1], guidance=4.0)
open("two.png", "wb").write(latentc_runtime.png(latentc_runtime.grid(pipe.images(samples), columns=2)))
"""

from latentc_runtime.errors import BundleError
from latentc_runtime.media import grid, png
from latentc_runtime.pipeline import Pipeline, load

__all__ = ["BundleError", "Pipeline", "grid", "load", "png"]
