"""Tiny models and pipelines of diffusers with random weights, and images by both libraries from the same noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

import latentc_runtime
from latentc import api

diffusers.utils.logging.disable_progress_bar()
diffusers.utils.logging.set_verbosity_error()


def randomised(model: Any) -> Any:
    """The model with weights of a size that makes it far from the identity."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1) * 0.1, 0.2 if parameter.ndim > 1 else 0.1)
    return model.eval()


def dit(copies: bool = True, **changed: Any) -> Any:
    """A DiT of two blocks, whose embedders are copies as in published pipelines, or else differ."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 4, "out_channels": 8}
    model = randomised(diffusers.DiTTransformer2DModel(**{**sizes, **changed}))
    first, *others = model.transformer_blocks
    for block in others if copies else ():
        block.norm1.emb.load_state_dict(first.norm1.emb.state_dict())
    return model


def vae(**changed: Any) -> Any:
    """An autoencoder that halves the resolution."""
    sizes = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "sample_size": 8,
        "scaling_factor": 0.5,
    }
    return randomised(diffusers.AutoencoderKL(**{**sizes, **changed}))


def unet(**changed: Any) -> Any:
    """ADM's U-Net with attention at its second level."""
    sizes = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": 8,
        "norm_num_groups": 4,
        "attn_norm_num_groups": 4,
    }
    return randomised(diffusers.UNet2DModel(**{**sizes, **changed}))


def pixart(**changed: Any) -> Any:
    """PixArt of two blocks, with captions of 12 channels."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8}
    sizes |= {"cross_attention_dim": 16, "caption_channels": 12}
    return randomised(diffusers.PixArtTransformer2DModel(**{**sizes, **changed}))


def sd3(**changed: Any) -> Any:
    """MM-DiT-X of three blocks, the first with two attentions."""
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "sample_size": 8}
    sizes |= {"in_channels": 4, "out_channels": 4, "caption_projection_dim": 16, "joint_attention_dim": 12}
    sizes |= {"pooled_projection_dim": 6, "pos_embed_max_size": 6, "dual_attention_layers": (0,), "qk_norm": "rms_norm"}
    return randomised(diffusers.SD3Transformer2DModel(**{**sizes, **changed}))


def flux(**changed: Any) -> Any:
    """FLUX of two blocks of two streams and two of one."""
    sizes: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "num_single_layers": 2}
    sizes |= {"in_channels": 16, "joint_attention_dim": 12, "pooled_projection_dim": 6, "axes_dims_rope": (2, 4, 2)}
    return randomised(diffusers.FluxTransformer2DModel(**{**sizes, "guidance_embeds": True, **changed}))


def vq(**changed: Any) -> Any:
    """An autoencoder with a codebook."""
    sizes = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        "norm_num_groups": 4,
        "sample_size": 8,
        "latent_channels": 8,
        "vq_embed_dim": 4,
        "num_vq_embeddings": 11,
    }
    return randomised(diffusers.VQModel(**{**sizes, **changed}))


def same_weights(one: Any, other: Any) -> None:
    """Two models have the same state dict."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def settings(model: Any) -> dict[str, Any]:
    """The configuration, without where it was loaded from; JSON has lists for tuples."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in model.config.items() if not k.startswith("_")}


def pipeline(folder: Path, scheduler: Any = None, names: bool = True, **changed: Any) -> Any:
    """A DiTPipeline, saved in the folder with names of its classes."""
    made = diffusers.DiTPipeline(dit(**changed), vae(), scheduler or diffusers.DDIMScheduler(clip_sample=False))
    made.save_pretrained(folder)
    if names:
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {str(i): f"thing {i}, item {i}" for i in range(1000)}
        (folder / "model_index.json").write_text(json.dumps(index))
    return made


def theirs(pipe: Any, classes: list[int], steps: int, guidance: float = 4.0) -> np.ndarray:
    """Images [B, C, H, W] in 0 to 1 of a DiTPipeline."""
    pipe.set_progress_bar_config(disable=True)
    images = pipe(classes, guidance, torch.Generator().manual_seed(0), steps, output_type="np").images
    return np.asarray(images.transpose(0, 3, 1, 2))


@torch.no_grad()
def looped(pipe: Any, classes: list[int], steps: int, guidance: float = 4.0) -> np.ndarray:
    """As `theirs`, for schedulers that scale the network's input: DiTPipeline steps from the scaled one."""
    pipe.scheduler.set_timesteps(steps)
    channels, side = pipe.transformer.config.in_channels, pipe.transformer.config.sample_size
    x = torch.randn((len(classes), channels, side, side), generator=torch.Generator().manual_seed(0))
    x = x * pipe.scheduler.init_noise_sigma
    labels = torch.tensor([*classes, *[1000] * len(classes)])
    for t in pipe.scheduler.timesteps:
        both = pipe.scheduler.scale_model_input(torch.cat([x, x]), t)
        output = pipe.transformer(both, timestep=t.expand(len(both)), class_labels=labels).sample[:, :channels]
        given, null = output.chunk(2)
        x = pipe.scheduler.step(null + guidance * (given - null), t, x).prev_sample
    images = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample
    return (images / 2 + 0.5).clamp(0, 1).numpy()


def consistency(folder: Path, levels: int = 40, **changed: Any) -> Any:
    """A ConsistencyModelPipeline of ADM's U-Net, saved in the folder."""
    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=levels)
    made = diffusers.ConsistencyModelPipeline(unet(out_channels=3, **changed), scheduler)
    made.save_pretrained(folder)
    return made


def latent(folder: Path, scheduler: Any = None) -> Any:
    """An LDMPipeline whose latents [4, 4, 4] are rows of a codebook, saved in the folder."""
    joined = {"downsample_type": "conv", "upsample_type": "conv", "resnet_time_scale_shift": "default"}
    blocks = {
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    net = unet(sample_size=4, in_channels=4, out_channels=4, attn_norm_num_groups=None, **joined, **blocks)
    made = diffusers.LDMPipeline(vq(scaling_factor=0.5), net, scheduler or diffusers.DDIMScheduler(clip_sample=False))
    made.save_pretrained(folder)
    return made


def unet_condition(**changed: Any) -> Any:
    """The U-Net of latent diffusion with transformers at its second level, of two heads."""
    sizes = {
        "sample_size": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": 12,
    }
    return randomised(diffusers.UNet2DConditionModel(**{**sizes, **changed}))


def texts_to_images(folder: Path, steps: int = 1000) -> Any:
    """An LDMTextToImagePipeline of five words, with latents [4, 4, 4], saved in the folder."""
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    words = folder.with_name(f"{folder.name}-words") / "vocab.txt"
    words.parent.mkdir(parents=True)
    words.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "fox", "blue", "house"]) + "\n"
    )
    sizes = {"encoder_layers": 2, "encoder_ffn_dim": 24, "encoder_attention_heads": 2, "head_dim": 8}
    bert = randomised(LDMBertModel(LDMBertConfig(vocab_size=10, d_model=12, **sizes)))
    levels = {name: (f"{name.title()}{half}Block2D",) * 4 for name, half in (("down", "Encoder"), ("up", "Decoder"))}
    kinds = {f"{name}_block_types": blocks for name, blocks in levels.items()}
    first_stage = vae(block_out_channels=(8,) * 4, sample_size=32, **kinds)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, num_train_timesteps=steps)
    parts = (first_stage, bert, BertTokenizer.from_pretrained(words.parent), unet_condition(), scheduler)
    made = diffusers.LDMTextToImagePipeline(*parts)
    made.save_pretrained(folder)
    return made


def images_of(pipe: Any, *given: Any, **more: Any) -> np.ndarray:
    """Images [B, C, H, W] in 0 to 1 of a pipeline, from the seed 0."""
    pipe.set_progress_bar_config(disable=True)
    images = pipe(*given, generator=torch.Generator().manual_seed(0), output_type="np", **more).images
    return np.asarray(images.transpose(0, 3, 1, 2))


def noises(bundle: Path, count: int) -> dict[str, np.ndarray]:
    """The random numbers of a bundle's program as a pipeline draws them from the seed 0, one array after another."""
    generator, found = torch.Generator().manual_seed(0), {}
    for of in latentc_runtime.load(bundle).manifest.programs[0].inputs:
        if of.source.kind == "random":
            rows = [torch.randn((count, *of.sample_shape), generator=generator).numpy() for _ in range(of.rows or 1)]
            found[of.name] = rows[0] if of.rows is None else np.stack(rows)
    return found


def ours(
    bundle: Path,
    classes: list[int] | None,
    shape: tuple[int, ...],
    count: int | None = None,
    given: dict[str, Any] | None = None,
    guidance: float | None = None,
) -> np.ndarray:
    """Images in 0 to 1 of a bundle, from the noise that `theirs` has."""
    number = len(classes) if classes is not None else count
    noise = torch.randn((number, *shape), generator=torch.Generator().manual_seed(0)).numpy()
    name = latentc_runtime.load(bundle).manifest.programs[0].inputs[0].name
    images = api.sample(bundle, classes, noise={name: noise}, count=count, given=given, guidance=guidance)
    return np.asarray((images / 2 + 0.5).clip(0, 1))
