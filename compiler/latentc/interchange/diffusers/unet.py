"""U-Nets of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from latentc.components.conditions.label import Label
from latentc.components.conditions.timestep import Timestep
from latentc.components.networks._levels import scaled
from latentc.components.networks.unet import UnetDenoiser
from latentc.components.objective import Objective
from latentc.interchange.diffusers.equivalent import Config, Data, Model, asked
from latentc.weights.expr import Expr, reshape, transpose

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

_DOWN = {"DownBlock2D": "conv", "ResnetDownsampleBlock2D": "resnet", "AttnDownBlock2D": None}
_UP = {"UpBlock2D": "conv", "ResnetUpsampleBlock2D": "resnet", "AttnUpBlock2D": None}
"""How a block is joined to the next; None: it attends, and is joined as `downsample_type` or `upsample_type` says."""
_PADDED = ("padded_conv", "conv")
"""Resampling by `downsample_padding`."""


class UNet2DModel(Model):
    """The U-Net of ADM or DDPM. Queries, keys and values are layers of their own."""

    NAMES = ("UNet2DModel",)
    SPEC = "adm"
    ADAPTED = ("qkv", "heads", "head_channels", "width", "multipliers", "stem", "embedding", "frequencies")
    DEFAULTS: ClassVar[Data] = {
        "sample_size": None,
        "in_channels": 3,
        "out_channels": 3,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [224, 448, 672, 896],
        "layers_per_block": 2,
        "mid_block_scale_factor": 1,
        "downsample_padding": 1,
        "downsample_type": "conv",
        "upsample_type": "conv",
        "dropout": 0.0,
        "act_fn": "silu",
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "attn_norm_num_groups": None,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "default",
        "add_attention": True,
        "class_embed_type": None,
        "num_class_embeds": None,
        "num_train_timesteps": None,
    }

    def changes(self, config: Config) -> Data:
        config.must("time_embedding_type", "positional", why="only sinusoids of the timestep have an equivalent")
        config.must("mid_block_type", "UNetMidBlock2D", why="there is always a middle of two blocks")
        config.must("mid_block_scale_factor", 1, 1.0, why="branches of the middle are added as they are")
        config.must("add_attention", True, why="the middle always attends")
        config.must("act_fn", "silu", "swish", why="the embedding of the time has the activation of the blocks, SiLU")
        config.must("class_embed_type", None, why="a class is embedded by a table")
        config.unused("num_train_timesteps")
        joined, attention = _blocks(config)
        if joined == "conv":
            config.must("downsample_padding", 0, 1)
        else:
            config.unused("downsample_padding")
        resampling = "block" if joined == "resnet" else _PADDED[config["downsample_padding"] == 1]
        sizes, channels = config.wholes("block_out_channels"), config.whole("in_channels")
        square = not isinstance(config["sample_size"], list | tuple)
        sides = [config.whole("sample_size")] * 2 if square else config.wholes("sample_size")
        if len(sides) != 2:
            config.refuse("sample_size", "it must be one side, or height and width")
        width, out, classes = sizes[0], config["out_channels"], config["num_class_embeds"]
        if out not in (channels, 2 * channels):
            config.refuse(
                "out_channels", f"a network of {channels} channels predicts {channels} or {2 * channels} channels"
            )
        embedding = 4 * width if config["time_embedding_dim"] is None else config.whole("time_embedding_dim")
        if embedding % width:
            config.refuse("time_embedding_dim", f"it must be a multiple of {width}")
        groups, modulates = config.whole("norm_num_groups"), config["resnet_time_scale_shift"] == "scale_shift"
        config.must("resnet_time_scale_shift", "default", "scale_shift")
        config.must("attn_norm_num_groups", groups, *(() if modulates else (None,)), why="the norm in the middle")
        config.must("freq_shift", 0, 1)
        head = config["attention_head_dim"]
        heads = {"heads": 1} if head is None else {"heads": None, "head_channels": config.whole("attention_head_dim")}
        found: Data = {
            "data": {"shape": [channels, *sides]},
            "backbone": {
                "width": width,
                "multipliers": [size / width for size in sizes],
                "stem": 1.0,
                "blocks": config.whole("layers_per_block"),
                "attention": attention,
                "recentre": config.flag("center_input_sample"),
                "embedding": embedding // width,
                "resampling": resampling,
                "block": {
                    "groups": groups,
                    "eps": config.number("norm_eps", 1e-5),
                    "embedding": "scale_shift" if modulates else "add",
                    "dropout": config.number("dropout", 0.0),
                    "qkv": "parts",
                    **heads,
                },
            },
            "conditioning": {
                "time": {
                    "frequencies": width,
                    "endpoint": config["freq_shift"] == 1,
                    "sines_first": not config.flag("flip_sin_to_cos"),
                }
            },
            "objective": {"variance": "learned_range" if out == 2 * channels else "fixed_small"},
        }
        if classes is None:
            found["backbone"]["conditions"] = []
        else:
            found["data"]["classes"] = config.whole("num_class_embeds")
        return found

    def config(self, spec: Spec) -> Data:
        net = unet_of(spec)
        taken, block = net.takes(spec), net.block
        label = taken.get("class")
        asked(list(taken) in ([], ["class"]), "a UNet2DModel takes at most one condition, a class")
        asked(label is None or isinstance(label, Label), "a UNet2DModel takes at most one condition, a class")
        assert label is None or isinstance(label, Label)
        asked(
            label is None or (label.encoding, label.null_embedding) == ("index", "learned"),
            "its label is not given as an index",
        )
        asked(block.transformer is None, "its attention reads a sequence")
        sizes = widths_of(net)
        attending = {size for level, size in enumerate(sizes) if net.attends(level)} | {sizes[-1]}
        dims = {size // block.head_count(size) for size in attending}
        asked(
            len(dims) == 1 or block.heads == 1,
            f"its heads have {' or '.join(map(str, sorted(dims)))} channels, depending on the level",
        )
        return {
            **self.DEFAULTS,
            **self.of_levels(spec),
            "attention_head_dim": None if block.heads == 1 else dims.pop(),
            "num_class_embeds": None if label is None else label.rows("class", spec),
        }

    def of_levels(self, spec: Spec) -> Data:
        """The configuration without the heads of its attention and its condition. Raises Unequal."""
        net, time = unet_of(spec), spec.time
        block = net.block
        asked(isinstance(time, Timestep), "its network does not take the time as sinusoids of a timestep")
        assert isinstance(time, Timestep) and spec.data.shape is not None
        asked(len(spec.data.shape) == 3, f"a {self.NAMES[0]} takes images [C, H, W]")
        asked(net.stem == net.multipliers[0], "its first convolution and its first level have different channels")
        asked((net.encoder, net.decoder, net.decoder_attention) == ("standard", "standard", "all"), "it is an NCSN++")
        asked(block.resample == "box" and not block.rescale and not block.project, "its residual blocks are not ADM's")
        asked(
            net.frequencies in (None, time.frequencies) and not net.early, "the class enters its time embedding early"
        )
        sizes = widths_of(net)
        asked(time.frequencies == sizes[0], f"its time has {time.frequencies} features, and its first level {sizes[0]}")
        asked(time.max_period == 10000.0, "the longest period of its time embedding is not 10000")
        asked(min(sizes) // block.group_size >= block.groups, "its norms have fewer groups at levels with few channels")
        assert isinstance(spec.objective, Objective)
        channels, *sides = spec.data.shape
        embedding = net.embedding * net.width
        attends = [net.attends(level) for level in range(len(sizes))]
        joined = "resnet" if net.resampling == "block" else "conv"
        return {
            "sample_size": sides[0] if sides[0] == sides[1] else sides,
            "in_channels": channels,
            "out_channels": spec.objective.out_channels(channels),
            "center_input_sample": net.recentre,
            "time_embedding_dim": None if embedding == 4 * sizes[0] else embedding,
            "freq_shift": int(time.endpoint),
            "flip_sin_to_cos": not time.sines_first,
            "down_block_types": [_block(_DOWN, joined, level) for level in attends],
            "up_block_types": [_block(_UP, joined, level) for level in reversed(attends)],
            "block_out_channels": sizes,
            "layers_per_block": net.blocks,
            "downsample_type": joined,
            "upsample_type": joined,
            "downsample_padding": int(net.resampling != "padded_conv"),
            "dropout": block.dropout,
            "norm_num_groups": block.groups,
            "attn_norm_num_groups": block.groups,
            "norm_eps": block.eps,
            "resnet_time_scale_shift": "scale_shift" if block.embedding == "scale_shift" else "default",
        }

    def adapted(self, spec: Spec, tensors: Mapping[str, Expr]) -> dict[str, Expr]:
        net = spec.networks["main"]
        assert isinstance(net, UnetDenoiser)
        return {
            name: _in_parts(tensor, net) if ".attention.qkv." in name else tensor for name, tensor in tensors.items()
        }


def unet_of(spec: Spec) -> UnetDenoiser:
    """The network, a U-Net. Raises Unequal."""
    net = spec.networks["main"]
    asked(isinstance(net, UnetDenoiser), f"its network is `{net.kind}`, not a U-Net")
    assert isinstance(net, UnetDenoiser)
    return net


def widths_of(net: UnetDenoiser) -> list[int]:
    """Channels of each level."""
    return [int(scaled(net.width, multiplier)) for multiplier in net.multipliers]


def _blocks(config: Config) -> tuple[str, list[int]]:
    """How levels are joined, and those that attend; refused unless it is the same everywhere, down and up."""
    ways, attending = [], []
    for key, usual, allowed in (
        ("down_block_types", "downsample_type", _DOWN),
        ("up_block_types", "upsample_type", _UP),
    ):
        config.unused(usual)
        names = config.words(key, {name: name for name in allowed})
        for name in names[:-1]:  # the last block of either way leads nowhere
            if allowed[name] is None:
                config.must(usual, "conv", "resnet", None)
            ways.append(allowed[name] or ("resnet" if config[usual] == "resnet" else "conv"))
        ordered = names if allowed is _DOWN else names[::-1]
        attending.append([level for level, name in enumerate(ordered) if allowed[name] is None])
    if len(set(ways)) > 1:
        config.refuse("up_block_types", "some levels are joined by convolutions and some by residual blocks")
    if attending[0] != attending[1]:
        config.refuse("up_block_types", "the levels that attend are others on the way up")
    return (ways or ["conv"])[0], attending[0]


def _block(names: Mapping[str, str | None], joined: str, attends: bool) -> str:
    """The block whose levels attend, or are joined so."""
    return next(name for name, way in names.items() if way == (None if attends else joined))


def _in_parts(qkv: Expr, net: UnetDenoiser) -> Expr:
    """The rows of queries, keys and values [3 C, ...] as three blocks, whatever their order."""
    channels = qkv.shape[0] // 3
    heads = net.block.head_count(channels)
    grid = {"parts": (3, heads, -1), "heads": (heads, 3, -1), "channels": (heads, -1, 3)}[net.block.qkv]
    size = channels // heads
    shape = tuple(size if n == -1 else n for n in grid)
    first = {"parts": (0, 1, 2), "heads": (1, 0, 2), "channels": (2, 0, 1)}[net.block.qkv]
    rest = qkv.shape[1:]
    parts = reshape(qkv, (*shape, *rest))
    parts = transpose(parts, (*first, *range(3, 3 + len(rest))))
    return reshape(parts, qkv.shape)


MODELS = (UNet2DModel(),)
