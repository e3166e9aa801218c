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
    params = network_params(lowered, lowered.networks["main"])
    rng = np.random.default_rng(0)
    own = {
        name: rng.normal(size=tuple(map(int, param.type.shape))).astype(np.float32)
        for name, param in params.items()
        if not computed(param)
    }
    write_safetensors(tmp_path / "own.safetensors", {name: Array(value) for name, value in own.items()})
    theirs = tmp_path / "theirs.safetensors"
    source, options = [f"main={tmp_path / 'own.safetensors'}"], {"variant": form.variant, "overrides": form.sizes}
    api.convert_weights(form.spec, source, theirs, None, "official", network="main", **options)  # type: ignore[arg-type]
    written, files = dict(open_weights(theirs)), tmp_path / "with_spare.safetensors"
    assert sorted(name for name in written if re.search(form.part, name)) == sorted(form.names)
    for name in form.spare:
        written[name] = Array(np.zeros(4, np.float32))
    write_safetensors(files, written)
    back = network_weights(spec, lowered, [f"main={files}"], "official", None, ["main"])["main"]
    assert own.keys() <= back.keys()
