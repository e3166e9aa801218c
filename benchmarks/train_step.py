"""A training step of the emitted DiT-S/2 against diffusers' DiTTransformer2DModel of the same sizes.

    python benchmarks/train_step.py [--batch 8] [--steps 5]
    python benchmarks/train_step.py --captions [--batch 4]

Goal: throughput at least that of diffusers. One loop for both: noise added to latents at random times, mean squared
error of the predicted noise, gradients, AdamW; float32. The two take turns. The sizes that both have (width, depth,
heads, patch) agree; diffusers gives each block its own embedding of time and class, so it has more parameters.

With `--captions`: a PixArt of width 384 and 12 blocks, told captions of 120 tokens by T5-base, whose features training
reads from a cache (`cached: true`) against one that encodes captions in every step. Goal: at least 1.2 times as fast.
One thread, processor seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import turns, verdict

from latentc.emit import model_source
from latentc.lower import lower
from latentc.measure.emitted import module_from_source, project_modules
from latentc.spec import load_spec


def emitted() -> tuple[Any, Callable[..., Any]]:
    lowered = lower(load_spec("dit", "S/2"))
    net = module_from_source(model_source(lowered), "model").build()
    return net, net


def diffusers() -> tuple[Any, Callable[..., Any]]:
    from diffusers import DiTTransformer2DModel

    net = DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,
        num_layers=12,
        sample_size=32,
        patch_size=2,
    )
    return net, lambda x, t, y: net(x, timestep=t, class_labels=y).sample


def step_of(net: Any, call: Callable[..., Any], batch: int) -> Callable[[], None]:
    """One training step as a function."""
    net.train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        x, noise = (torch.randn(batch, 4, 32, 32, generator=generator) for _ in range(2))
        t = torch.randint(1000, (batch,), generator=generator)
        y = torch.randint(1000, (batch,), generator=generator)
        keep = torch.cos(t / 1000 * torch.pi / 2).view(-1, 1, 1, 1)
        predicted = call(keep * x + (1 - keep**2).sqrt() * noise, t, y)[:, :4]
        optimiser.zero_grad(set_to_none=True)
        F.mse_loss(predicted, noise).backward()
        optimiser.step()

    return step


CAPTIONED = [
    *("backbone.width=384", "backbone.block.mixer.heads=6", "backbone.depth=12", "data.shape=[4, 32, 32]"),
    *("networks.text.width=768", "networks.text.depth=12", "networks.text.block.mixer.heads=12"),
    "networks.text.block.feed_forward.hidden=2048",
]


def captioned_step(cached: bool, batch: int) -> Callable[[], None]:
    """One training step of a PixArt, with or without its text encoder."""
    overrides = [*CAPTIONED, f"conditioning.caption.cached={str(cached).lower()}"]
    spec = load_spec("pixart", "XL/2-512-t5", overrides)
    modules = project_modules(lower(spec), spec, ("model", "objective"))
    (update,) = modules["objective"].UPDATES
    networks = {name: modules["model"].NETWORKS[name]() for name in update.networks}
    for name, network in networks.items():
        network.requires_grad_(name in update.trained)
    optimiser = torch.optim.AdamW(networks["main"].parameters(), lr=1e-6)
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(120) < 20).expand(batch, 120)
    given = {"x": torch.randn(batch, 4, 32, 32, generator=generator), "caption_mask": mask}
    if cached:
        given["caption_features"] = torch.randn(batch, 120, 768, generator=generator)
    else:
        given["caption"] = torch.randint(32128, (batch, 120), generator=generator)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        inputs = {**given, **update.draws(batch, generator)}
        loss = update.loss(*networks.values(), **inputs)
        (loss[0] if isinstance(loss, tuple) else loss).backward()
        optimiser.step()

    return step


def captions(batch: int, count: int) -> None:
    torch.set_num_threads(1)
    steps = {name: captioned_step(name == "cached", batch) for name in ("cached", "encoded")}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(count + 1):  # the first one warms up
        for name, step in steps.items():
            begin = time.process_time()
            step()
            seconds[name] += [time.process_time() - begin] if i else []
    least = {name: min(found) for name, found in seconds.items()}
    print(f"features of captions {least['cached']:.2f} s a step of {batch}, captions {least['encoded']:.2f} s")
    print(verdict("training step, cached features against captions", least["encoded"] / least["cached"], 1.2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--captions", action="store_true")
    flags = parser.parse_args()
    if flags.captions:
        captions(flags.batch, flags.steps)
        return
    steps = {}
    for name, make in (("emitted", emitted), ("diffusers", diffusers)):
        net, call = make()
        steps[name] = step_of(net, call, flags.batch)
        print(f"{name}: {sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters")
        steps[name]()
    times = turns(steps, flags.steps)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, seconds in medians.items():
        print(f"{name}: {seconds:.3f} s a step of {flags.batch}, {flags.batch / seconds:.2f} samples/s")
    print(verdict("throughput, emitted against diffusers", medians["diffusers"] / medians["emitted"], 1.0))


if __name__ == "__main__":
    main()
