"""Autoencoders: AutoencoderKL, and VQModel with its codebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from latentc.components.blocks.bottlenecks.codebook import EPS, Codebook
from latentc.components.blocks.bottlenecks.gaussian import Gaussian
from latentc.components.blocks.bottlenecks.late_codebook import LateCodebook
from latentc.components.networks.autoencoder import Autoencoder
from latentc.interchange.diffusers.equivalent import Config, Data, Model, asked
from latentc.weights.expr import Computed, Expr

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

_DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
_UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}
_IMPLIED = ("features", "decoder_attention")
_SHARED: Data = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "mid_block_add_attention": True,
}


def _halves(config: Config) -> Data:
    """Encoder and decoder, as changes to `data` and `backbone`."""
    channels = config.wholes("block_out_channels")
    width, levels = channels[0], len(channels)
    if any(size % width for size in channels):
        config.refuse("block_out_channels", "each must be a multiple of the first")
    attention = []
    for key, allowed in (("down_block_types", _DOWN), ("up_block_types", _UP)):
        blocks = config.words(key, allowed)
        if blocks and len(blocks) != levels:
            config.refuse(key, f"there are {levels} levels")
        ordered = blocks if allowed is _DOWN else blocks[::-1]
        attention.append([level for level, attends in enumerate(ordered) if attends])
    config.must("act_fn", "silu")
    config.must("out_channels", config["in_channels"], why="an autoencoder returns as many channels as it takes")
    factor = 2 ** (levels - 1)
    side = config["sample_size"]
    side = side if isinstance(side, int) and side >= factor else factor
    return {
        "data": {"shape": [config.whole("in_channels"), *[side // factor * factor] * 2]},
        "backbone": {
            "width": width,
            "multipliers": [size // width for size in channels],
            "blocks": config.whole("layers_per_block"),
            "attention": attention[0],
            "decoder_attention": None if attention[1] == attention[0] else attention[1],
            "middle_attention": config.flag("mid_block_add_attention"),
            "groups": config.whole("norm_num_groups"),
        },
    }


def _config(spec: Spec) -> tuple[Autoencoder, Data]:
    """The network, and what both classes say of its encoder and decoder. Raises Unequal."""
    net = spec.networks["main"]
    asked(isinstance(net, Autoencoder), f"its network is `{net.kind}`, not an autoencoder")
    assert isinstance(net, Autoencoder) and spec.data.shape is not None
    asked(net.eps == 1e-6, f"its group norms have eps {net.eps:g}, but diffusers' have 1e-06")
    outward = net.attention if net.decoder_attention is None else net.decoder_attention
    levels = range(len(net.multipliers))
    return net, {
        **_SHARED,
        "in_channels": spec.data.shape[0],
        "out_channels": spec.data.shape[0],
        "down_block_types": [list(_DOWN)[level in net.attention] for level in levels],
        "up_block_types": [list(_UP)[level in outward] for level in reversed(levels)],
        "block_out_channels": [net.width * multiplier for multiplier in net.multipliers],
        "layers_per_block": net.blocks,
        "norm_num_groups": net.groups,
        "sample_size": spec.data.shape[-1],
        "scaling_factor": 1.0,
        "mid_block_add_attention": net.middle_attention,
    }


class AutoencoderKL(Model):
    """The autoencoder of latent diffusion."""

    NAMES = ("AutoencoderKL",)
    SPEC = "sd_vae"
    ADAPTED = _IMPLIED
    SCHEDULED = False
    DEFAULTS: ClassVar[Data] = {
        **_SHARED,
        "latent_channels": 4,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "force_upcast": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }

    def changes(self, config: Config) -> Data:
        config.unused("scaling_factor", "shift_factor", "force_upcast")  # used by pipelines and for float16
        config.must("latents_mean", None)
        config.must("latents_std", None)
        found = _halves(config)
        quant, post = config.flag("use_quant_conv"), config.flag("use_post_quant_conv")
        found["backbone"] |= {
            "features": None,
            "quant_conv": quant,
            "post_quant_conv": post,
            "bottleneck": {"channels": config.whole("latent_channels")},
        }
        return found

    def config(self, spec: Spec) -> Data:
        net, shared = _config(spec)
        asked(isinstance(net.bottleneck, Gaussian), f"its bottleneck is `{net.bottleneck.kind}`, not Gaussian")
        asked(
            net.features in (None, net.bottleneck.channels), "its encoder outputs more channels than the latents have"
        )
        return {
            **self.DEFAULTS,
            **shared,
            "latent_channels": net.bottleneck.channels,
            "use_quant_conv": net.quant_conv,
            "use_post_quant_conv": net.post_quant_conv,
        }


class VQModel(Model):
    """The autoencoder with a codebook, whose rows are compared by distance.

    A codebook that compares directions is one with rows of length 1.
    """

    NAMES = ("VQModel",)
    SPEC = "vq_f16"
    ADAPTED = ("normalize", *_IMPLIED)
    SCHEDULED = False
    DEFAULTS: ClassVar[Data] = {
        **_SHARED,
        "latent_channels": 3,
        "num_vq_embeddings": 256,
        "vq_embed_dim": None,
        "norm_type": "group",
        "lookup_from_codebook": False,
        "force_upcast": False,
    }

    BOTTLENECK: ClassVar[type[Codebook]] = Codebook

    def changes(self, config: Config) -> Data:
        config.unused("scaling_factor", "force_upcast", "lookup_from_codebook")  # what pipelines call it
        config.must("norm_type", "group", why="norms of the decoder that the codes scale and shift (MoVQ)")
        found = _halves(config)
        latent = config.whole("latent_channels")
        rows = latent if config["vq_embed_dim"] is None else config.whole("vq_embed_dim")
        found["backbone"] |= {
            "features": latent,
            "quant_conv": True,
            "post_quant_conv": True,
            "bottleneck": {"size": config.whole("num_vq_embeddings"), "channels": rows, "normalize": False},
        }
        return found

    def config(self, spec: Spec) -> Data:
        net, shared = _config(spec)
        wanted = self.BOTTLENECK.model_fields["kind"].annotation.__args__[0]  # type: ignore[union-attr]
        asked(type(net.bottleneck) is self.BOTTLENECK, f"its bottleneck is `{net.bottleneck.kind}`, not `{wanted}`")
        assert isinstance(net.bottleneck, Codebook)
        asked(
            net.bottleneck.decay is None, "rows of its codebook average latents (`decay`), but diffusers' are weights"
        )
        asked(net.quant_conv and net.post_quant_conv, "a VQModel has convolutions before and after its codebook")
        return {
            **self.DEFAULTS,
            **shared,
            "latent_channels": net.bottleneck.channels if net.features is None else net.features,
            "num_vq_embeddings": net.bottleneck.size,
            "vq_embed_dim": net.bottleneck.channels,
        }

    def adapted(self, spec: Spec, tensors: Mapping[str, Expr]) -> dict[str, Expr]:
        bottleneck = spec.networks["main"].bottleneck  # type: ignore[attr-defined]
        if not bottleneck.normalize:
            return dict(tensors)
        table = tensors["codebook.weight"]
        unit = Computed((table,), lambda parts: _unit_rows(parts[0]), table.dtype, table.shape)
        return {**tensors, "codebook.weight": unit}


class LatentVQModel(VQModel):
    """A `VQModel` whose latents are continuous: pipelines of latent diffusion choose the rows where they decode."""

    SPEC = "vq_f4"
    BOTTLENECK = LateCodebook


def _unit_rows(table: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.sum(np.square(table.astype(np.float64)), axis=1, keepdims=True))
    return (table / np.maximum(length, EPS)).astype(table.dtype)


MODELS = (AutoencoderKL(), VQModel())
FIRST_STAGES = (MODELS[0], LatentVQModel())
"""Of latent diffusion, by the same names of classes."""
