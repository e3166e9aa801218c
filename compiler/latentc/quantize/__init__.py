"""Quantisation: calibrate, choose the layers within a budget, build, measure, report; and the check of half precision.

`trajectories` records what the sampler gives its networks, `observe` the inputs of their layers; `scales` and
`sensitivity` say what rounding costs, `plan` chooses the layers, `gate` measures the engine, `compile` does it all.
"""
