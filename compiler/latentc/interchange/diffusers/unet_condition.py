"""U-Nets of latent diffusion, whose transformers attend to a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from latentc.components.conditions.label import Label
from latentc.interchange.diffusers.equivalent import Config, Data, asked
from latentc.interchange.diffusers.unet import UNet2DModel, unet_of, widths_of

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

CONTEXT = "context"
"""The condition that an imported network attends to: diffusers' `encoder_hidden_states`."""
LENGTH = 77
"""Tokens of the sequence, which the configuration does not say: those of all published networks."""

_CONDITION: Data = {
    "kind": "features",
    "dropout": 0.1,
    "null_embedding": "given",
    "padding": "none",
    "projection": "none",
}
_DOWN = {"DownBlock2D": "DownBlock2D", "CrossAttnDownBlock2D": "AttnDownBlock2D"}
_UP = {"UpBlock2D": "UpBlock2D", "CrossAttnUpBlock2D": "AttnUpBlock2D"}
"""Blocks by those of `UNet2DModel` in the same place."""


class UNet2DConditionModel(UNet2DModel):
    """The U-Net of latent diffusion with a transformer in place of each attention."""

    NAMES = ("UNet2DConditionModel",)
    SPEC = "ldm"
    DEFAULTS: ClassVar[Data] = {
        "sample_size": None,
        "in_channels": 4,
        "out_channels": 4,
        "center_input_sample": False,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "only_cross_attention": False,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "downsample_padding": 1,
        "mid_block_scale_factor": 1,
        "dropout": 0.0,
        "act_fn": "silu",
        "norm_num_groups": 32,
        "norm_eps": 1e-5,
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "reverse_transformer_layers_per_block": None,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "dual_cross_attention": False,
        "use_linear_projection": False,
        "class_embed_type": None,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "num_class_embeds": None,
        "upcast_attention": False,
        "resnet_time_scale_shift": "default",
        "resnet_skip_time_act": False,
        "resnet_out_scale_factor": 1.0,
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
        "time_cond_proj_dim": None,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "projection_class_embeddings_input_dim": None,
        "attention_type": "default",
        "class_embeddings_concat": False,
        "mid_block_only_cross_attention": None,
        "cross_attention_norm": None,
        "addition_embed_type_num_heads": 64,
    }
    _REASONS: ClassVar[dict[str, str]] = {
        "mid_block_type": "the middle attends to the sequence",
        "only_cross_attention": "every transformer also attends to itself",
        "mid_block_only_cross_attention": "every transformer also attends to itself",
        "encoder_hid_dim_type": "the sequence enters as it is",
        "num_attention_heads": "diffusers does not take it either",
        "dual_cross_attention": "there is one sequence",
        "class_embed_type": "its only condition is a sequence",
        "addition_embed_type": "its only condition is a sequence",
        "num_class_embeds": "its only condition is a sequence",
        "class_embeddings_concat": "its only condition is a sequence",
        "time_cond_proj_dim": "its only condition is a sequence",
        "resnet_skip_time_act": "the embedding of the time is activated before every block",
        "resnet_out_scale_factor": "branches are added as they are",
        "time_embedding_act_fn": "the embedding of the time is activated once, before every block",
        "timestep_post_act": "the embedding of the time is activated once, before every block",
        "conv_in_kernel": "it is 3 wide",
        "conv_out_kernel": "it is 3 wide",
        "attention_type": "transformers have two attentions and a feed-forward layer",
        "cross_attention_norm": "the sequence enters as it is",
        "reverse_transformer_layers_per_block": "transformers are equally deep on both ways",
    }

    def changes(self, config: Config) -> Data:
        for key, why in self._REASONS.items():
            config.must(key, self.DEFAULTS[key], why=why)
        config.unused("upcast_attention", "use_linear_projection")  # about float16; read from the weights
        config.unused("encoder_hid_dim", "addition_time_embed_dim", "addition_embed_type_num_heads")
        config.unused("projection_class_embeddings_input_dim")
        down, up = config.words("down_block_types", _DOWN), config.words("up_block_types", _UP)
        plain = Config(config.name, {**self._plain(config), "down_block_types": down, "up_block_types": up}, {})
        found = super().changes(plain)
        config.refused += [reason for reason in plain.refused if reason not in config.refused]
        config.notes += plain.notes
        config.read |= plain.read & config.values.keys()
        backbone, data = found["backbone"], found["data"]
        del backbone["conditions"]
        backbone["block"] |= {
            **self._heads(config, backbone["attention"]),
            "transformer": {"depth": self._same(config, "transformer_layers_per_block", backbone["attention"])},
        }
        width = self._same(config, "cross_attention_dim", backbone["attention"])
        fields = {name: {"shape": [LENGTH, width], "medium": "array"} for name in (CONTEXT, f"{CONTEXT}_null")}
        return {
            **found,
            "data": {"kind": "npz", "path": "data/latents.npz", **data, "fields": fields},
            "conditioning": {**found["conditioning"], "class": None, CONTEXT: _CONDITION},
            "sampler": {"guidance": {"scale": 1.0}},
        }

    def _plain(self, config: Config) -> Data:
        """The values of a `UNet2DModel` with attentions in place of the transformers."""
        shared = {key: config.values[key] for key in UNet2DModel.DEFAULTS if key in config.values}
        return {
            **UNet2DModel.DEFAULTS,
            **shared,
            "mid_block_type": "UNetMidBlock2D",
            "attn_norm_num_groups": config.values["norm_num_groups"],
            "attention_head_dim": 1,
            "class_embed_type": None,
            "num_class_embeds": None,
        }

    def _same(self, config: Config, key: str, attention: Sequence[int]) -> int:
        """A number that is the same at all levels that attend, and in the middle."""
        value = config[key]
        if not isinstance(value, list | tuple):
            return config.whole(key)
        levels = (
            len(config.values["block_out_channels"]) if isinstance(config.values["block_out_channels"], list) else 0
        )
        numbers = config.wholes(key)
        seen = {numbers[level] for level in {*attention, levels - 1} if 0 <= level < len(numbers)}
        if len(numbers) != levels or len(seen) != 1:
            config.refuse(key, "it must be the same at every level that attends")
            return 1
        return seen.pop()

    def _heads(self, config: Config, attention: Sequence[int]) -> Data:
        """Heads, which diffusers calls `attention_head_dim`; one per level if all have equally many channels."""
        if not isinstance(config["attention_head_dim"], list | tuple):
            return {"heads": config.whole("attention_head_dim")}
        heads, sizes = config.wholes("attention_head_dim"), config.wholes("block_out_channels")
        if len(heads) != len(sizes):
            config.refuse("attention_head_dim", f"there are {len(sizes)} levels")
            return {"heads": 1}
        widths = {sizes[level] // heads[level] for level in {*attention, len(sizes) - 1}}
        if len(widths) != 1:
            config.refuse("attention_head_dim", "heads must have equally many channels at all levels")
        return {"heads": None, "head_channels": widths.pop()}

    def embedding(self, spec: Spec) -> tuple[str, ...]:
        """The table of a class that is one token."""
        entries = unet_of(spec).entries(spec)
        return tuple(f"{entry.name}_embedder.weight" for entry in entries if isinstance(entry.condition, Label))

    def config(self, spec: Spec) -> Data:
        net = unet_of(spec)
        transformer = net.block.transformer
        asked(transformer is not None, "its attention reads no sequence")
        assert transformer is not None
        asked((transformer.ratio, transformer.eps) == (4, 1e-6), "its transformers have another width or eps")
        entries = net.entries(spec)
        asked([entry.form for entry in entries] == ["tokens"], "a UNet2DConditionModel takes one condition, a sequence")
        width = entries[0].token_shape(spec).width
        asked(width is not None, f"its condition `{entries[0].name}` passes a linear layer first")
        plain = self.of_levels(spec)
        asked(plain["downsample_type"] == "conv", "its levels are joined by residual blocks")
        heads = [net.block.head_count(size) for size in widths_of(net)]
        own = {key: plain[key] for key in self.DEFAULTS if key in plain}
        return {
            **self.DEFAULTS,
            **own,
            "down_block_types": [{v: k for k, v in _DOWN.items()}[name] for name in plain["down_block_types"]],
            "mid_block_type": self.DEFAULTS["mid_block_type"],
            "up_block_types": [{v: k for k, v in _UP.items()}[name] for name in plain["up_block_types"]],
            "cross_attention_dim": width,
            "transformer_layers_per_block": transformer.depth,
            "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        }


MODELS = (UNet2DConditionModel(),)
