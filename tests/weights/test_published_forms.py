"""Forms of published checkpoints that no shipped variant has: names as their authors' code reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_systems import SYSTEMS

from latentc import api
from latentc.checkpoint import computed, network_params, network_weights
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import Array, open_weights, write_safetensors


@dataclass(frozen=True)
class Form:
    """A spec, overrides, and the names with `part` that a file of its weights has."""

    spec: str
    sizes: tuple[str, ...]
    part: str
    names: tuple[str, ...]
    variant: str | None = None
    spare: tuple[str, ...] = ()
    """Names that its authors' files hold, too, and no scale uses."""
    network: str = "main"


def tiny(name: str, *sizes: str) -> tuple[str, ...]:
    return (*SYSTEMS[name].sizes, *sizes)


MASKBIT = (
    "data.tokens={vocabulary: 16, grid: [2, 2]}",
    "data.first_stage=null",
    "backbone.width=16",
    "backbone.depth=1",
)
MASKBIT = (*MASKBIT, "backbone.block.mixer.heads=2", "sampler.steps=2", "data.classes=3")
STAGE = ("data.shape=[3, 64, 64]", "backbone.width=32", "backbone.blocks=1")
STAGE = (*STAGE, "backbone.bottleneck={kind: multi_scale_codebook, size: 8, channels: 4, scales: [1, 2, 4]}")
VQGAN = ("data.shape=[3, 16, 16]", "networks.main.width=32", "networks.main.multipliers=[1, 2]")
VQGAN = (*VQGAN, "networks.main.blocks=1", "networks.main.attention=[]", "networks.discriminator.depth=1")
SKIPS = tuple(f"model.dec.{side}x{side}_aux_{layer}" for side in (4, 8) for layer in ("conv", "norm"))
SKIPS = tuple(f"{name}.{part}" for name in ("model.enc.4x4_aux_skip", *SKIPS) for part in ("weight", "bias"))
FILTERS = ("model.enc.4x4_aux_down.resample_filter", "model.dec.8x8_aux_up.resample_filter")
DEEP = ("data.shape=[3, 8, 8]", "data.classes=4", "data.class_names=null", "networks.main.channel_multipliers=[2, 2]")
DEEP = (*DEEP, "networks.main.width=8", "networks.discriminator.width=8", "networks.discriminator.attention=[4]")
DEEP = (
    *DEEP,
    "networks.discriminator.channel_multipliers=[2, 2]",
    "networks.discriminator.downsample_levels=2",
    "networks.main.attention=[]",
)
ALWAYS = ("dropout=0", "untrained_null=true")
TABLES = "^tok_emb_list|^input_proj.*weight"
SMOOTH = r"quantize\.quant_resi\..*weight"
FORMS = [
    Form("maskbit", (*MASKBIT, "backbone.splits=1"), TABLES, ("tok_emb_list.0.weight",), "embedding"),
    Form("maskbit", MASKBIT, TABLES, ("tok_emb_list.0.weight", "tok_emb_list.1.weight"), "embedding"),
    Form("maskbit", MASKBIT, TABLES, ("input_proj.weight",)),
    Form(
        "vq_multi_scale",
        (*STAGE, "backbone.bottleneck.convolutions=1"),
        SMOOTH,
        ("quantize.quant_resi.qresi.weight",),
    ),
    Form(
        "vq_multi_scale",
        (*STAGE, "backbone.bottleneck.convolutions=0"),
        SMOOTH,
        tuple(f"quantize.quant_resi.{i}.weight" for i in range(3)),
    ),
    Form(  # of four convolutions, three scales are nearest to three
        "vq_multi_scale",
        STAGE,
        SMOOTH,
        tuple(f"quantize.quant_resi.qresi_ls.{i}.weight" for i in (0, 2, 3)),
        spare=("quantize.quant_resi.qresi_ls.1.weight", "quantize.quant_resi.qresi_ls.1.bias"),
    ),
    Form(
        "vqgan_taming",
        (*VQGAN, "networks.main.downsampling=average"),
        "sample",
        ("decoder.up.1.upsample.conv.bias", "decoder.up.1.upsample.conv.weight"),
    ),
    Form("vqgan_taming", (*VQGAN, "networks.main.upsampling=nearest"), "upsample", ()),
    Form("cdcd", tiny("cdcd"), "attn.*key.bias", ("blocks.0.attn.key.bias",)),
    Form(
        "cdcd",
        tiny("cdcd", "backbone.feed_forward=linear"),
        "mlp.*weight",
        ("blocks.0.mlp.0.weight", "blocks.0.mlp.2.weight"),
    ),
    Form("cdcd", tiny("cdcd"), "mlp.*weight", ("blocks.0.mlp.conv1.weight", "blocks.0.mlp.conv2.weight")),
    Form("edm", tiny("edm", "backbone.encoder=skip", "backbone.decoder=skip"), "aux", (*SKIPS, *FILTERS)),
    *(
        Form(
            "biggan_deep",
            (*DEEP, f"networks.discriminator.blocks_per_level={depth}"),
            r"conv1\.weight|theta\.weight",
            (*(f"blocks.{i}.{j}.conv1.weight" for i in (0, 1) for j in range(depth)), f"blocks.0.{depth}.theta.weight"),
            network="discriminator",
        )
        for depth in (1, 3)
    ),
    Form("mar", tiny("mar", *(f"conditioning.class.{o}" for o in ALWAYS)), "fake_latent", ("fake_latent",)),
    Form(
        "llamagen_t2i",
        tiny("llamagen_t2i", *(f"conditioning.caption.{o}" for o in ALWAYS)),
        "uncond",
        ("cls_embedding.uncond_embedding",),
    ),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.spec}-{form.names}")
def test_names_are_those_of_the_form(form: Form, tmp_path: Path) -> None:
    spec = load_spec(form.spec, form.variant, list(form.sizes))
    lowered = lower(spec)
    params = network_params(lowered, lowered.networks[form.network])
    rng = np.random.default_rng(0)
    own = {
        name: rng.normal(size=tuple(map(int, param.type.shape))).astype(np.float32)
        for name, param in params.items()
        if not computed(param)
    }
    write_safetensors(tmp_path / "own.safetensors", {name: Array(value) for name, value in own.items()})
    theirs = tmp_path / "theirs.safetensors"
    source, options = (
        [f"{form.network}={tmp_path / 'own.safetensors'}"],
        {"variant": form.variant, "overrides": form.sizes},
    )
    api.convert_weights(form.spec, source, theirs, None, "official", network=form.network, **options)  # type: ignore[arg-type]
    written, files = dict(open_weights(theirs)), tmp_path / "with_spare.safetensors"
    assert sorted(name for name in written if re.search(form.part, name)) == sorted(form.names)
    for name in form.spare:
        written[name] = Array(np.zeros(4, np.float32))
    write_safetensors(files, written)
    back = network_weights(spec, lowered, [f"{form.network}={files}"], "official", None, [form.network])[form.network]
    assert own.keys() <= back.keys()
