"""A training step of emitted networks against diffusers' of the same sizes and weights.

    python benchmarks/train_step.py [--only NAME …] [--batch 4] [--rounds 5] [--compiled]
    python benchmarks/train_step.py --captions

Models of diffusers with random weights are saved and imported (`latentc import`), so that the emitted network has
their weights and computes the same. One loop for both: mean squared error of the output, gradients, AdamW; float32,
one thread. They take turns; times are medians of the processor's seconds, and the losses of all steps must agree.
Memory is a process's own with one network and its optimiser, at its largest in two steps. `--compiled` adds both by
`torch.compile`. Goal: throughput at least that of diffusers in each family.

With `--captions`: a PixArt of width 384 and 12 blocks, told captions of 120 tokens by T5-base, whose features training
reads from a cache (`cached: true`) against one that encodes captions in every step. Goal: at least 1.2 times as fast.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import feed_of, turns, verdict, watched

from latentc import api
from latentc.lower import lower
from latentc.measure.emitted import project_modules
from latentc.spec import load_spec
from latentc.weights import materialise, open_weights

Feed = Mapping[str, torch.Tensor]
WHO = ("emitted", "diffusers")


@dataclass(frozen=True)
class Family:
    """A model of diffusers, and how it takes inputs that have the emitted network's names."""

    kind: str
    sizes: Mapping[str, Any]
    call: Callable[[Any, Feed], Any]
    overrides: tuple[str, ...] = ()
    times: tuple[float, float] = (0.0, 999.0)


def _texts(length: int, channels: int) -> tuple[str, ...]:
    return tuple(f"data.fields.caption{end}.shape=[{length}, {channels}]" for end in ("", "_null"))


def _packed(x: torch.Tensor) -> torch.Tensor:
    """Patches of 2 × 2 as FLUX packs them: [B, C, H, W] to [B, H/2 W/2, 4 C]."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def _places(tokens: int) -> torch.Tensor:
    """FLUX's positions of image tokens [T, 3]: 0, row and column."""
    side = round(tokens**0.5)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3).float()


def _flux(net: Any, feed: Feed) -> Any:
    x, caption = _packed(feed["x"]), feed["caption"]
    out = net(
        x,
        encoder_hidden_states=caption,
        pooled_projections=feed["pooled"],
        timestep=feed["t"],
        img_ids=_places(x.shape[1]),
        txt_ids=torch.zeros(caption.shape[1], 3),
        guidance=feed["guidance"],
    ).sample
    b, c, h, w = feed["x"].shape
    return out.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


HEADS = {"num_attention_heads": 6, "attention_head_dim": 64, "sample_size": 32}
FAMILIES = {
    "DiT": Family(
        "DiTTransformer2DModel",
        {**HEADS, "num_layers": 12, "in_channels": 4, "out_channels": 8, "patch_size": 2},
        lambda net, f: net(f["x"], timestep=f["t"].long(), class_labels=f["y"]).sample,
    ),
    "PixArt": Family(
        "PixArtTransformer2DModel",
        {**HEADS, "num_layers": 12, "cross_attention_dim": 384, "caption_channels": 256},
        lambda net, f: (
            net(
                f["x"],
                encoder_hidden_states=f["caption"],
                timestep=f["t"].long(),
                encoder_attention_mask=f["caption_mask"].long(),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
        ),
        (*_texts(64, 256), *(f"data.fields.caption{end}_mask.shape=[64]" for end in ("", "_null"))),
    ),
    "SD3": Family(
        "SD3Transformer2DModel",
        {
            **HEADS,
            "num_layers": 8,
            "in_channels": 4,
            "out_channels": 4,
            "caption_projection_dim": 384,
            "joint_attention_dim": 256,
            "pooled_projection_dim": 128,
            "pos_embed_max_size": 32,
            "dual_attention_layers": (0, 1, 2),
            "qk_norm": "rms_norm",
        },
        lambda net, f: (
            net(
                f["x"], encoder_hidden_states=f["caption"], pooled_projections=f["pooled"], timestep=1000 * f["t"]
            ).sample
        ),
        _texts(64, 256),
        (0.05, 0.95),
    ),
    "FLUX": Family(
        "FluxTransformer2DModel",
        {
            "num_attention_heads": 6,
            "attention_head_dim": 64,
            "num_layers": 4,
            "num_single_layers": 8,
            "in_channels": 16,
            "joint_attention_dim": 256,
            "pooled_projection_dim": 128,
            "axes_dims_rope": (16, 24, 24),
            "guidance_embeds": True,
        },
        _flux,
        ("data.shape=[4, 32, 32]", "data.fields.caption.shape=[64, 256]"),
        (0.05, 0.95),
    ),
    "ADM": Family(
        "UNet2DModel",
        {
            "sample_size": 32,
            "in_channels": 3,
            "out_channels": 6,
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
            "block_out_channels": (64, 128, 192),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": 64,
            "attn_norm_num_groups": 32,
        },
        lambda net, f: net(f["x"], f["t"]).sample,
    ),
    "LDM": Family(
        "UNet2DConditionModel",
        {
            "sample_size": 32,
            "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            "block_out_channels": (64, 128, 256),
            "layers_per_block": 1,
            "attention_head_dim": 8,
            "cross_attention_dim": 256,
        },
        lambda net, f: net(f["x"], f["t"], f["context"]).sample,
        tuple(f"data.fields.context{end}.shape=[64, 256]" for end in ("", "_null")),
    ),
}


class Pair:
    """A family's two networks, with the same weights, and their inputs."""

    def __init__(self, family: Family, batch: int) -> None:
        import diffusers

        torch.manual_seed(0)
        self.theirs = getattr(diffusers, family.kind)(**family.sizes).eval()  # no dropout of labels
        for parameter in self.theirs.parameters():  # no gate is zero
            parameter.data += 0.02 * torch.randn_like(parameter)
        with tempfile.TemporaryDirectory() as name:
            self.theirs.save_pretrained(f"{name}/theirs")
            found = api.import_checkpoint(f"{name}/theirs", f"{name}/ours")
            spec = load_spec(found.spec, None, list(family.overrides))
            file = Path(name, "weights.safetensors")
            api.convert_weights(found.spec, None, file, overrides=list(family.overrides))
            weights = {k: torch.from_numpy(np.array(materialise(a))) for k, a in open_weights(file).items()}
        lowered = lower(spec)
        self.ours = project_modules(lowered, spec, ("model",))["model"].NETWORKS["main"]()
        self.ours.load_state_dict(weights, strict=False)
        method = lowered.networks["main"].methods["forward"]
        function = lowered.module.functions[method.function]
        feed = feed_of(function.inputs, (), batch)
        for port in method.inputs:
            if port.role == "time":
                feed[port.name] = np.linspace(*family.times, batch).astype(np.float32)
        self.feed = {name: torch.from_numpy(array) for name, array in feed.items()}
        self.call = family.call

    def forward(self, which: str) -> tuple[Any, Callable[[Any], Any]]:
        if which == "emitted":
            return self.ours, lambda net: net(*self.feed.values())
        return self.theirs, lambda net: self.call(net, self.feed)


def step_of(parameters: Any, forward: Callable[[], Any]) -> Callable[[], float]:
    """One training step towards a fixed random target as a function, which returns its loss."""
    parameters = list(parameters)
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    target: list[torch.Tensor] = []

    def step() -> float:
        out = forward()
        if not target:
            target.append(torch.randn(out.shape, generator=torch.Generator().manual_seed(0)))
        optimiser.zero_grad(set_to_none=True)
        loss = F.mse_loss(out, target[0])
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def compare(name: str, batch: int, rounds: int, compiled: bool) -> float:
    """Prints a family's times and memory; the throughput of the emitted step, relative to that of diffusers."""
    pair = Pair(FAMILIES[name], batch)
    found = _compared(name, pair, batch, rounds, False)
    memory = {who: _memory(name, who, batch) for who in WHO}
    print(f"  {name}: " + ", ".join(f"{who} {size / 2**20:.0f} MiB" for who, size in memory.items()), flush=True)
    if compiled:
        _compared(name, Pair(FAMILIES[name], batch), batch, rounds, True)
    return found


def _compared(name: str, pair: Pair, batch: int, rounds: int, compiled: bool) -> float:
    losses: dict[str, list[float]] = {}
    calls = {}
    for who in WHO:
        net, call = pair.forward(who)
        form = torch.compile(net, dynamic=False) if compiled else net
        step = step_of(net.parameters(), partial(call, form))
        losses[who] = [step()]
        calls[who] = partial(_noted, step, losses[who])
    medians = {who: statistics.median(taken) for who, taken in turns(calls, rounds, clock=time.process_time).items()}
    for ours, theirs in zip(*losses.values(), strict=True):
        assert abs(ours - theirs) <= 1e-4 * theirs, f"{name}: losses {losses}"
    counts = {who: sum(p.numel() for p in pair.forward(who)[0].parameters()) for who in WHO}
    assert len(set(counts.values())) == 1, f"{name}: numbers of parameters {counts}"
    title = f"{name}{', torch.compile' if compiled else ''}"
    print(f"  {title}: " + ", ".join(f"{who} {1e3 * s:.0f} ms" for who, s in medians.items()) + f" a step of {batch}")
    ratio = medians["diffusers"] / medians["emitted"]
    print(verdict(f"{title}, {counts['emitted'] / 1e6:.1f} M weights", ratio, 1.0), flush=True)
    return ratio


def _noted(step: Callable[[], float], losses: list[float]) -> None:
    losses.append(step())


def _memory(name: str, who: str, batch: int) -> float:
    """Peak of a process that takes two steps with one of the networks alone, in bytes."""
    return watched([__file__, "--alone", who, "--only", name, "--batch", str(batch)])[1]


def alone(name: str, who: str, batch: int) -> None:
    pair = Pair(FAMILIES[name], batch)
    net, call = pair.forward(who)
    del pair.ours, pair.theirs  # one of them lives on in `net`
    step = step_of(net.parameters(), lambda: call(net))
    print(json.dumps([step(), step()]))


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
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--captions", action="store_true")
    parser.add_argument("--alone", choices=WHO, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    if flags.captions:
        captions(flags.batch, flags.rounds)
    elif flags.alone:
        alone(flags.only[0], flags.alone, flags.batch)
    else:
        found = [compare(name, flags.batch, flags.rounds, flags.compiled) for name in flags.only]
        print(f"geometric mean {statistics.geometric_mean(found):.2f} ×, least {min(found):.2f} ×")


if __name__ == "__main__":
    main()
