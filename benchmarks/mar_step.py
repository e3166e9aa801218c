"""A training step of MAR-B (256 tokens) whose encoder takes the known tokens, against one that takes all of them.

    python benchmarks/mar_step.py [--batch 1] [--steps 3]

Goal: at least 1.1 times as fast. Both are the emitted project: its loss, gradients, AdamW; float32, eager, the same
weights and draws. The two take turns on one thread, and the seconds are of the processor, so that other programs on a
busy machine count less. The trunk's forward and backward pass is also measured on its own: a step has the head's passes
and the optimisers too, which stay as they are. FLOPs are those of PyTorch's counter.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from common import verdict
from torch.utils.flop_counter import FlopCounterMode

from latentc.lower import lower
from latentc.measure.emitted import project_modules
from latentc.spec import load_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    spec = load_spec("mar", "B")
    modules = project_modules(lower(spec), spec, ("model", "objective"))
    model, objective = modules["model"], modules["objective"]
    trunk, head = (build() for build in model.NETWORKS.values())
    (update,) = objective.UPDATES
    weights = [*trunk.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=1e-6)
    print(f"{sum(p.numel() for p in weights) / 1e6:.0f} M parameters, at most {trunk.known} tokens known")

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(flags.batch, 16, 16, 16, generator=generator)
    y = torch.randint(1000, (flags.batch,), generator=generator)
    draws = update.draws(flags.batch, generator)
    tokens = x.flatten(2).transpose(1, 2)
    mask = (draws["order"].argsort() < 0.8 * tokens.shape[1]).float()
    known, every = trunk.forward_known, trunk.forward

    def step(encode: Callable[..., torch.Tensor]) -> None:
        trunk.forward_known = encode  # what the loss calls
        optimiser.zero_grad(set_to_none=True)
        update.loss(trunk, head, x, y, *draws.values())[0].backward()
        optimiser.step()

    def passes(encode: Callable[..., torch.Tensor]) -> None:
        trunk.zero_grad(set_to_none=True)
        encode(tokens, mask, y).square().mean().backward()

    for what, run in (("trunk", passes), ("step", step)):
        work, seconds = {}, dict[str, list[float]](known=[], all=[])
        for name, encode in (("known", known), ("all", every)):
            with FlopCounterMode(display=False) as counter:
                run(encode)
            work[name] = counter.get_total_flops() / 1e9
        for _ in range(flags.steps):
            for name, encode in (("known", known), ("all", every)):
                begin = time.process_time()
                run(encode)
                seconds[name].append(time.process_time() - begin)
        least = {name: min(found) for name, found in seconds.items()}
        for name in least:
            print(f"{what} of {flags.batch}, {name} tokens: {work[name]:.0f} GFLOP, {least[name]:.2f} s")
        ratio = least["all"] / least["known"]
    print(verdict("training step, known tokens against all", ratio, 1.1))


if __name__ == "__main__":
    main()
