"""The shipped systems without dropout, at sizes that train and run in a second, on the digits or on arrays from a file.

Those that do not learn the digits read `train.npz`.
"""

from __future__ import annotations

from dataclasses import dataclass

DIGITS = ("data={kind: digits}",)
IMAGES = ("data={kind: npz, path: train.npz, classes: 10, shape: [3, 8, 8], augment: 0.12}",)
UNET = ("width=16", "multipliers=[1, 2]", "blocks=1", "attention=[1]", "block.groups=4", "block.dropout=0")
BLOCKS = ("width=16", "block.mixer.heads=2", "block.mixer.dropout=0", "block.feed_forward.dropout=0")
WITHIN = ("block.mixer.weight_dropout=0", "block.feed_forward.hidden_dropout=0")


FILE = ("data.path=train.npz",)

EFFICIENT = "{width: 3, expansion: 1}, {width: 4, stride: 2, expansion: 2}"
TEXTS = (
    "data={kind: npz, path: train.npz, classes: 2, fields: {tokens: {shape: [6], classes: 12, medium: text, end: 11}}}",
)
NAMED = "class_tokens=[[2, 4], [3]]"


def under(path: str, sizes: tuple[str, ...]) -> tuple[str, ...]:
    """The overrides of one network."""
    return tuple(f"{path}.{size}" for size in sizes)


@dataclass(frozen=True)
class Tiny:
    """A shipped spec, a variant of it, and overrides that make it tiny."""

    spec: str
    sizes: tuple[str, ...]
    variant: str | None = None


def edm(variant: str, frequencies: int = 16, data: tuple[str, ...] = DIGITS) -> Tiny:
    time = f"conditioning.time.frequencies={frequencies}"
    return Tiny(
        "edm", (*data, *under("backbone", UNET), time, "backbone.block.head_channels=8", "sampler.steps=3"), variant
    )


UVIT = (*DIGITS, *under("backbone", (*BLOCKS, "half=1")), "conditioning.time.frequencies=16", "sampler.steps=4")
ADM = (*DIGITS, *under("backbone", UNET), "backbone.block.head_channels=8", "conditioning.time.frequencies=16")
CM = (*ADM, "networks.perceptual=null", "objective.distance=pseudo_huber", "objective.steps=8")
CM = (*CM, "objective.growth.first=2", "sampler.spacing.levels=9", "sampler.steps=2")
MP_UNET = ("width=16", "multipliers=[1, 2]", "blocks=1", "attention=[1]", "block.head_channels=8")
EDM2 = (*DIGITS, *under("networks.main", MP_UNET), "networks.uncertainty.frequencies=8", "sampler.steps=3")
EDM2 = (*EDM2, "conditioning.time.frequencies=16")
EYE = ("width=16", "depth=1", "patch=4", "block.mixer.heads=2", "head.features=8", "image=12", "normalise=null")
EYE = under("networks.eye", (*EYE, "pretrained=null"))
CLASSIFIER = under("networks.classifier", (*UNET, "block.head_channels=8", "frequencies=16"))
RESNET = ("layers=[1, 1, 1, 1]", "width=4", "normalise=false")
UNDROPPED = ("dropout=0", "hidden_dropout=0")
CAUSAL = (
    "data={kind: npz, path: train.npz, fields: {x: {shape: [1]}, covariates: {shape: [1]}, treatment: {shape: [1]}}}",
    *(f"networks.{name}.width=6" for name in ("main", "lower", "upper", "propensity")),
    *(f"networks.{name}.bins=4" for name in ("main", "lower", "upper")),
    *("networks.lower.bound=3", "networks.upper.bound=3", "objective.latents=4", "sampler.latents=4"),
)
CAPTIONED = "data={kind: npz, path: train.npz, shape: [1, 8, 8], fields: {caption: {shape: [5, 8]}, "
CAPTIONED += "caption_mask: {shape: [5], dtype: bool}}}"
HIMAR = (
    *under("networks.main", (*BLOCKS, *WITHIN, "depth=1", "patch=2", "side=2", "buffer=4")),
    *under("networks.head", ("width=16", "depth=1", "block.mixer.heads=2")),
    *under("networks.pivot_head", ("width=16", "depth=1")),
    *("sampler.steps=2", "sampler.diffusion.respacing='4'", "sampler.pivots.steps=3", "objective.pivots=null"),
    "sampler.pivots.diffusion.respacing='4'",
)
GAN = ("networks.main.channel_multipliers=[2, 2]", "networks.discriminator.channel_multipliers=[2, 2]")
GAN = (*DIGITS, *GAN, *under("networks.main", ("width=8", "latent_dim=16")), "networks.discriminator.width=8")
GAN = (*GAN, "networks.discriminator.downsample_levels=1")
STAGE = (*DIGITS, *under("backbone", ("width=8", "multipliers=[1, 2]", "blocks=1", "groups=4")))
DIT = (*DIGITS, *under("backbone", (*BLOCKS, "depth=2", "patch=2")))
WHOLE = "sampler.guidance.channels=null"  # not three of four channels
EXPERTS = (*DIT, "sampler.steps=3", WHOLE)

CLOUD = (
    "down=[{voxels: {width: 16, side: 3}, points: 4, radius: 1, neighbours: 4, widths: [16]}]",
    "up=[{widths: [16], voxels: {width: 16, side: 2}}]",
    *("style=8", "attention=[0]", "heads=1", "hidden=16", "dropout=0"),
)
CLOUD = under("backbone", CLOUD)

FRACTAL = ("data={kind: npz, path: train.npz, classes: 10, shape: [1, 4, 4]}", "backbone.values=5")
FRACTAL += (
    "backbone.levels=[{side: 2, width: 16, depth: 1, heads: 2}, {side: 1, width: 8, depth: 1, heads: 2}]",
    "backbone.colours={width: 8, depth: 1, heads: 2}",
    *under("backbone.block", ("mixer.dropout=0", "mixer.weight_dropout=0", "feed_forward.dropout=0")),
    "sampler={kind: fractal, steps: 2, inner_steps: [2], guidance: {scale: 2, schedule: linear}}",
)
TITOK = ("data={kind: npz, path: train.npz, shape: [3, 8, 8]}", "networks.main.pretrained=null")
TITOK += under("networks.main", ("tokens=3", "width=16", "depth=1", "patch=4", "block.mixer.heads=2", "proxies=8"))
TITOK += ("networks.main.bottleneck={kind: codebook, size: 16, channels: 4, normalize: true}",)
TITOK_PIXELS = "{channels: 4, width: 8, multipliers: [1, 1, 1], blocks: 1, groups: 4}"
STAGES = ("width=8", "depths=[1, 1, 1, 1, 1]")

SMALL = ("width=16", "depth=1", "block.mixer.heads=2")
HOURGLASSES = (f"{name}={{width: 4, most: 8, blocks: 1}}" for name in ("region", "flow", "background"))
FLOW_UNET = ("factor=2", "width=8", "multipliers=[1, 2]", "heads=2", "head_width=4", "groups=4")
FLOW = ("regions=2", "factor=2", *HOURGLASSES, "image={width: 4, most: 8, halvings: 1, blocks: 1}")
DOD = (*under("networks.main", SMALL), "networks.embedder.width=16", "sampler.sampler.steps=3")
NESTED = (*under("networks.main", SMALL), *under("networks.of_quarters", SMALL), "sampler.steps=3")
NESTED += under("networks.of_whole", ("width=16", "depth=1", "context=8"))
NESTED += tuple(f"conditioning.{name}.prior.sampler.steps=3" for name in ("whole", "quarters"))
RDM = (*under("backbone", (*UNET, "block.heads=2")), "conditioning.time.frequencies=16", "sampler.steps=3")
RIN = ("data_width=16", "width=16", "latents=6", "blocks=1", "layers=1", "heads=2", "compute_heads=2")
SCORE = (*DIGITS, *under("backbone", UNET), "conditioning.time.frequencies=16", "sampler.steps=3")

GRANULES = ("width=32", "depth=1", "heads=2", "side=4", "latent=4", "kind_channels=4")
TAMING = ("data={kind: digits, as: tokens}", "sampler.top_k=5", *under("backbone", ("width=16", "depth=1")))
TAMING = (*TAMING, "backbone.block.mixer.heads=2")
TAMING_DEPTH = (
    *("data.tokens={vocabulary: 16, grid: [4, 4]}", "data.path=train.npz", "data.fields.map.shape=[1, 8, 8]"),
    *under("networks.main", ("width=16", "depth=2", "block.mixer.heads=2")),
    *under("networks.encoder", ("width=8", "groups=4", "multipliers=[1, 2]", "blocks=1", "attention=[]")),
    *("networks.encoder.bottleneck={kind: codebook, size: 16, channels: 4}", "sampler.top_k=5"),
)

T2I = ("data.tokens={vocabulary: 12, grid: [3, 3]}", "data.first_stage=null", "data.path=train.npz", "sampler.top_k=8")
T2I += under("backbone", (*BLOCKS, "depth=2", "dropout=0", "block.feed_forward.multiple_of=8"))
T2I += ("data.fields.caption.shape=[5, 6]", "data.fields.caption_mask.shape=[5]")

SYSTEMS: dict[str, Tiny] = {
    "dico": Tiny("dico", (*DIGITS, *under("backbone", STAGES), "sampler.steps=3", WHOLE)),
    "dimr": Tiny(
        "dimr",
        (
            *(*DIGITS, "sampler.steps=3", "backbone.coarse.mixer.heads=2"),
            "backbone.branches=[{width: 16, half: 1, patch: 2, block: coarse}, {width: 8, half: 1}]",
        ),
    ),
    "dimr_text": Tiny(
        "dimr",
        (
            *(CAPTIONED, "sampler.steps=3", "backbone.coarse.mixer.heads=2"),
            "backbone.branches=[{width: 16, half: 1, patch: 2, block: coarse}, {width: 8, half: 1}]",
        ),
        "XL/2R-256-text",
    ),
    "diffit": Tiny("diffit", EXPERTS),
    "diffusers_dit": Tiny("diffusers_dit", EXPERTS),
    "diffit_image": Tiny(
        "diffit_image",
        (
            *(*IMAGES, *under("backbone", ("width=8", "multipliers=[1, 2, 1]", "depths=[1, 1, 1]", "embedding=16"))),
            *under("backbone.block", ("condition.convolution_groups=2", "mixer.mixer.heads=2")),
            *("conditioning.time.frequencies=16", "sampler.steps=3"),
        ),
    ),
    "ascan": Tiny(
        "ascan",
        (
            *(*DIGITS, *under("backbone", ("width=8", "multipliers=[1, 2, 1]", "convolutions=[1, 1, 1]"))),
            *under("backbone", ("depths=[0, 1, 0]", "heads=[2, 2, 2]", "embedding=16", "block.mixer.heads=2")),
            "sampler.steps=3",
        ),
    ),
    "iwin": Tiny(
        "iwin",
        (
            *(*DIGITS, *under("backbone", ("width=16", "depth=2", "block.mixer.size=4", "block.mixer.mixer.heads=2"))),
            *("backbone.block.feed_forward.hidden=24", "sampler.steps=3", WHOLE),
        ),
    ),
    "lightning_dit": Tiny(
        "lightning_dit",
        (
            *(*DIGITS, *under("backbone", ("width=16", "depth=2", "block.mixer.heads=2"))),
            *("conditioning.time.frequencies=16", "sampler.steps=3", WHOLE),
        ),
    ),
    "ddt": Tiny(
        "ddt",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS[:2], "depth=1", "decoder_depth=1", "patch=4", "alignment=null"))),
            *("conditioning.time.frequencies=16", "objective.further=[]", "sampler.steps=3", WHOLE),
        ),
    ),
    "pixnerd": Tiny(
        "pixnerd",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS[:2], "depth=1", "decoder_depth=1", "patch=4", "alignment=null"))),
            *("backbone.pixel_width=8", "backbone.frequencies=3", "conditioning.time.frequencies=16"),
            *("objective.further=[]", "sampler.steps=3", WHOLE),
        ),
    ),
    "deco": Tiny(
        "deco",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS[:2], "depth=1", "decoder_depth=1", "patch=4", "alignment=null"))),
            *("backbone.pixel_width=8", "backbone.frequencies=3", "conditioning.time.frequencies=16"),
            *("objective.further=[{kind: frequency_error}]", "sampler.steps=3", WHOLE),
        ),
    ),
    "rae": Tiny(
        "rae",
        (
            *(*DIGITS, *under("networks.main", (*BLOCKS[:2], "depth=1", "decoder_depth=1", "patch=4"))),
            *("networks.main.decoder_width=24", "networks.main.decoder_heads=2", "conditioning.time.frequencies=16"),
            "sampler.steps=3",
        ),
    ),
    "rae_autoencoder": Tiny(
        "rae_autoencoder",
        (
            *("data={kind: npz, path: train.npz, shape: [3, 8, 8]}", "backbone.pretrained=null"),
            "backbone.fresh_weights=[]",
            "backbone.vision={width: 16, depth: 1, heads: 2, patch: 3, registers: 1, side: 3, image: 6, levels: [0]}",
            *under("backbone", ("width=16", "depth=1", "patch=4", "block.mixer.heads=2")),
        ),
    ),
    "eqm": Tiny(
        "eqm",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS[:2], "depth=2"))),
            *("conditioning.time.frequencies=16", "sampler.steps=3", "sampler.size=0.3", WHOLE),
        ),
    ),
    "sana": Tiny(
        "sana",
        (
            "data={kind: npz, path: train.npz, shape: [1, 8, 8], fields: {caption: {shape: [5, 8]}, caption_mask: "
            "{shape: [5], dtype: bool}, caption_null: {shape: [5, 8]}, caption_null_mask: {shape: [5], dtype: bool}}}",
            *under("backbone", ("width=16", "depth=1", "block.mixer.heads=2", "block.condition.cross_heads=4")),
            *("conditioning.time.frequencies=16", "sampler.steps=3"),
        ),
    ),
    "sd3": Tiny(
        "sd3",
        (
            "data={kind: npz, path: train.npz, shape: [1, 8, 8], fields: {caption: {shape: [5, 8]}, caption_null: "
            "{shape: [5, 8]}, pooled: {shape: [6]}, pooled_null: {shape: [6]}}}",
            *under("backbone", ("width=16", "depth=3", "dual=1", "heads=2", "positions.side=6", "positions.extent=4")),
            "sampler.steps=3",
        ),
        "3.5-medium",
    ),
    "sd3_labels": Tiny("digits_sd3", (*under("backbone", ("width=16", "depth=2", "heads=2")), "sampler.steps=3")),
    "flux": Tiny(
        "flux",
        (
            "data={kind: npz, path: train.npz, shape: [1, 8, 8], fields: {caption: {shape: [5, 8]}, "
            "pooled: {shape: [6]}}}",
            *under("backbone", ("width=16", "depth=2", "single=1", "heads=2", "positions.axes=[2, 4, 2]")),
            "sampler.steps=3",
        ),
    ),
    "flux_labels": Tiny(
        "digits_flux",
        (
            *under("backbone", ("width=16", "depth=2", "single=2", "heads=2", "positions.axes=[2, 2, 4]")),
            "sampler.steps=3",
        ),
    ),
    "ldm": Tiny("ldm", (*DIGITS, *RDM, "conditioning.class.width=8")),
    "rdm": Tiny("digits_rdm", RDM),
    "dod": Tiny("digits_dod", DOD),
    "nested": Tiny("digits_nested", NESTED),
    "uvit": Tiny("uvit", UVIT),
    "uvit-pixels": Tiny("uvit", (*UVIT, "backbone.patch=2"), "cifar10-S/2"),
    "edm": edm("cifar10", data=IMAGES),
    "edm-uncond": edm("cifar10-uncond", data=IMAGES),
    "edm-vp": edm("cifar10-vp"),
    "edm-ve": edm("cifar10-ve", 32),
    "edm-ncsnpp": edm("cifar10-edm-ve", 32, IMAGES),
    "edm-adm": edm("imagenet64"),
    "pfgmpp": Tiny("pfgmpp", edm("cifar10", data=IMAGES).sizes, "cifar10-D128"),
    "edm2": Tiny("edm2", EDM2),
    "edm2-autoguidance": Tiny("edm2_autoguidance", (*EDM2, *under("networks.guide", (*MP_UNET, "frequencies=8")))),
    "score_sde": Tiny("score_sde", SCORE, "vp-ncsnpp"),
    "score_sde_guided": Tiny(
        "score_sde_guided",
        (
            *(*SCORE, "conditioning.time.frequencies=32"),
            *under(
                "networks.classifier",
                (
                    "blocks=1",
                    "width=4",
                    "multiplier=1",
                    "embedding=8",
                    "frequencies=16",
                    "mean=[0.5]",
                    "deviation=[0.2]",
                ),
            ),
        ),
    ),
    "adm": Tiny("adm", (*ADM, "sampler.steps=3")),
    "cm": Tiny("cm", CM),
    "adm_classifier": Tiny("adm_classifier", ADM),
    "adm_sdg": Tiny("adm_sdg", (*ADM, *EYE, "sampler.steps=3")),
    "adm_sdg-text": Tiny(
        "adm_sdg",
        (
            *(*ADM, *EYE, "sampler.steps=3", "data.fields.text={shape: [5], classes: 16}"),
            *under("networks.words", ("width=16", "depth=1", "block.mixer.heads=2", "projection=8", "pretrained=null")),
        ),
        "text",
    ),
    "adm_g": Tiny("adm_g", (*ADM, *CLASSIFIER, "sampler.steps=3")),
    "maskgit": Tiny("digits_maskgit", (*under("backbone", (*BLOCKS, "depth=1")), "sampler.steps=4")),
    "mdlm": Tiny(
        "mdlm",
        (
            *("data={kind: digits, as: tokens}", "conditioning.class={kind: label, dropout: 0.1}"),
            *under("backbone", (*BLOCKS, "depth=1", "condition_width=8")),
            *("conditioning.time.frequencies=16", "sampler.steps=3", "sampler.guidance={scale: 1.5}"),
        ),
    ),
    "bd3lm": Tiny(
        "bd3lm",
        (
            *("data={kind: digits, as: tokens}", "conditioning.class={kind: label, dropout: 0.1}"),
            *under("backbone", (*BLOCKS, "depth=1", "condition_width=8")),
            *("conditioning.time.frequencies=16", "objective.block=16", "objective.least=0.3", "objective.rounds=3"),
            *("sampler.start=0", "sampler.guidance={scale: 1.5}"),
        ),
    ),
    "llada": Tiny(
        "llada",
        (
            *("data={kind: digits, as: tokens}", "conditioning.class={kind: label, dropout: 0.1}"),
            *under("backbone", ("width=16", "depth=1", "mask=null", "block.mixer.heads=2")),
            *("backbone.block.feed_forward.hidden=24", "sampler.steps=4", "sampler.block=31", "sampler.prompt=2"),
            *("sampler.temperature=0.7", "sampler.guidance={scale: 1.5}"),
        ),
    ),
    "sedd": Tiny(
        "sedd",
        (
            *("data={kind: digits, as: tokens}", "conditioning.class={kind: label, dropout: 0.1}"),
            *under("backbone", (*BLOCKS, "depth=1", "condition_width=8")),
            *("conditioning.time.frequencies=16", "sampler.steps=3", "sampler.guidance={scale: 1.5}"),
        ),
    ),
    "sedd-uniform": Tiny(
        "sedd",
        (
            *("data={kind: digits, as: tokens}", "conditioning.class={kind: label, dropout: 0.1}"),
            *under("backbone", (*BLOCKS, "depth=1", "condition_width=8")),
            *("conditioning.time.frequencies=16", "sampler.steps=3", "sampler.guidance={scale: 1.5}"),
            "sampler.predictor=euler",
        ),
        "uniform",
    ),
    "discrete_fm": Tiny(
        "discrete_fm",
        (
            *("data={kind: digits, as: tokens}", "conditioning.class={kind: label, dropout: 0.1}"),
            *under("backbone", (*BLOCKS, "depth=1", "condition_width=8")),
            *("conditioning.time.frequencies=16", "sampler={kind: token_jumps, steps: 3, corrector: {scale: 2}}"),
            "sampler.guidance={scale: 1.5}",
        ),
    ),
    "discrete_fm-mask_kl": Tiny(
        "discrete_fm",
        (
            *("data={kind: digits, as: tokens}", "objective.exponent=2", "sampler.steps=3"),
            *under("backbone", (*BLOCKS, "depth=1", "condition_width=8")),
            "conditioning.time.frequencies=16",
        ),
        "mask_kl",
    ),
    "cdcd": Tiny(
        "cdcd",
        (
            *under("backbone", (*BLOCKS[:1], "depth=1", "heads=2", "ratio=2", "position_grid=null")),
            *("data={kind: digits, as: tokens}", "objective.steps=8", "sampler.steps=8", "sampler.top_p=0.9"),
        ),
    ),
    "maskgit-halton": Tiny(
        "maskgit",
        (
            *under("backbone", (*BLOCKS, "depth=1", "block.feed_forward.multiple_of=8")),
            *("data={kind: digits, as: tokens}", "sampler.steps=4"),
        ),
    ),
    "maskgit_jax": Tiny(
        "maskgit_jax",
        (
            *(
                "data={kind: digits, as: tokens}",
                *under("backbone", (*BLOCKS, *WITHIN, "depth=1", "dropout=0", "embedding.labels=10")),
            ),
            "sampler.steps=4",
        ),
    ),
    "mage": Tiny(
        "mage",
        (
            *("data={kind: digits, as: tokens}", "sampler.steps=4", "train.batch_size=8"),
            *under(
                "backbone",
                (*BLOCKS, *WITHIN, "depth=1", "dropout=0", "embedding={labels: 10, blank: 7, shared: false}"),
            ),
            *under("backbone.decoder", ("width=8", "depth=1", "heads=2")),
        ),
    ),
    "maskbit": Tiny(
        "maskbit",
        (
            *("data={kind: npz, path: train.npz, classes: 10, tokens: {vocabulary: 16, grid: [4, 4]}}",),
            *(*under("backbone", (*BLOCKS, *WITHIN, "depth=1", "dropout=0")), "sampler.steps=4"),
        ),
    ),
    "maskbit_tokenizer": Tiny(
        "maskbit_tokenizer", (*STAGE, "backbone.decoder_blocks=1", "backbone.bottleneck.channels=4")
    ),
    "mar": Tiny(
        "mar",
        (
            *(*DIGITS, *under("networks.main", (*BLOCKS, *WITHIN, "depth=1", "patch=2", "buffer=4"))),
            *("networks.head.width=16", "networks.head.depth=1", "sampler.steps=4", "sampler.diffusion.respacing='4'"),
            "sampler.kind=recap_autoregressive",
            "sampler.reuse={after: 1, diffusion: {kind: ddpm, respacing: '2'}}",
        ),
    ),
    "tokenbridge": Tiny(
        "tokenbridge",
        (
            *(*DIGITS, *under("networks.main", (*BLOCKS, *WITHIN, "depth=1", "patch=2", "buffer=4"))),
            *under("networks.head", (*BLOCKS, *WITHIN, "depth=1", "levels=4", "span=1.5", "order=[1, 0, 3, 2]")),
            "sampler.steps=3",
        ),
    ),
    "recap_maskgit": Tiny(
        "recap_maskgit",
        (
            *(
                "data={kind: npz, path: train.npz, classes: 10, tokens: {vocabulary: 16, grid: [4, 4]}}",
                "backbone.depth=3",
            ),
            *under("backbone", ("width=16", "block.mixer.heads=2", "dropout=0")),
            *("sampler.steps=5", "sampler.reuse.after=1", "sampler.guidance={scale: 2}"),
        ),
    ),
    "d_jepa_t2i": Tiny(
        "d_jepa_t2i",
        (
            *("data.first_stage=null", "data.shape=[1, 8, 8]", *FILE),
            *("data.fields.caption.shape=[3, 4]", "data.fields.caption_mask.shape=[3]"),
            *under(
                "networks.main", (*BLOCKS, "depth=1", "patch=2", "buffer=2", "positions.pairs=2", "positions.side=6")
            ),
            *("networks.head.width=16", "networks.head.depth=1", "sampler.steps=2", "sampler.diffusion.steps=2"),
        ),
    ),
    "givt": Tiny("givt", (*DIGITS, *under("backbone", (*BLOCKS, "depth=1")), "sampler.proposals=8")),
    "givt-adaptor": Tiny(
        "givt",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS, "depth=1", "patch=[2, 4]")), "sampler.proposals=8"),
            "networks.adaptor={kind: reversible, blocks: 2, bottleneck: 8, patch: [2, 4]}",
        ),
        "large-512",
    ),
    "givt-beams": Tiny(
        "givt",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS, "depth=1"))),
            "sampler={kind: mixture_autoregressive, beams: 2, fans: 3}",
        ),
    ),
    "givt_masked": Tiny(
        "givt_masked", (*DIGITS, *under("backbone", (*BLOCKS, "depth=1")), "sampler.steps=3", "sampler.proposals=8")
    ),
    "himar": Tiny("himar", (*DIGITS, *HIMAR)),
    "himar-t2i": Tiny(
        "himar",
        (
            *("data.first_stage=null", "data.shape=[1, 8, 8]", *FILE),
            "data.fields={caption: {shape: [3, 4]}, caption_mask: {shape: [3], dtype: bool}}",
            *HIMAR,
        ),
        "S-t2i",
    ),
    "gedi": Tiny(
        "gedi",
        (
            *FILE,
            "data.fields.tokens={shape: [6], classes: 12, medium: text}",
            "data.fields.prompt={shape: [4], classes: 12}",
            "data.fields.prompt_mask.shape=[4]",
            *("data.fields.topic={shape: [2], classes: 12}", "data.fields.topic_mask={shape: [2], dtype: bool}"),
            *("conditioning.topic={kind: prompt}", "networks.discriminator.conditions=[class, topic, prompt]"),
            *("networks.discriminator.class_tokens=[1, 2]", "networks.main.frozen=false"),
            *under("networks.main", (*BLOCKS[:2], "depth=1", "context=16")),
            *under("networks.discriminator", (*BLOCKS[:2], "depth=1", "context=16")),
        ),
    ),
    "pixelcnn": Tiny(
        "pixelcnn",
        (
            *("data={kind: npz, path: train.npz, classes: 10, shape: [3, 4, 4]}", "backbone.conditions=null"),
            *under("backbone", ("width=6", "depth=2", "kernel=3", "first_kernel=3", "head_width=6", "values=17")),
        ),
    ),
    "pixelcnn-autoencoder": Tiny(
        "pixelcnn",
        (
            *("data={kind: npz, path: train.npz, classes: 10, shape: [3, 4, 4]}", "backbone.conditions=null"),
            *under("backbone", ("width=6", "depth=2", "kernel=3", "first_kernel=3", "head_width=6", "values=17")),
            *("networks.encoder.size=5", "networks.encoder.widths=[4, 6]"),
        ),
        "autoencoder",
    ),
    "class_prefix_gpt2": Tiny(
        "class_prefix_gpt2", (*TEXTS, *under("networks.main", (*BLOCKS[:2], "depth=1", "context=16", NAMED)))
    ),
    "class_prefix_bert": Tiny(
        "class_prefix_bert",
        (
            *(*TEXTS, *under("networks.main", (*BLOCKS[:2], "depth=1"))),
            "networks.main.embedding={mask: 1, start: 0, class_tokens: [2, 3], places: 16, segments: 2}",
        ),
    ),
    "class_prefix_bart": Tiny(
        "class_prefix_bart",
        (
            *(*TEXTS, "data.fields.tokens_starts={shape: [6]}"),
            "conditioning.source={kind: masked_text, mask: 1, end: 11, shape: span, starts: tokens_starts}",
            *under("networks.main", (*BLOCKS[:2], "encoder_depth=1", "decoder_depth=1", "context=16", NAMED)),
            *under("networks.main", ("start=11", "source_start=0")),
        ),
    ),
    "neural_csa": Tiny("neural_csa", (*CAUSAL, "networks.multipliers.width=6")),
    "neural_csa_per_sample": Tiny(
        "neural_csa",
        (*CAUSAL, "data.fields.row={shape: [], classes: 5}", "objective.penalty=0.5", "objective.growth=1.5"),
        "per_sample",
    ),
    "pixelcnn_pp": Tiny(
        "pixelcnn_pp",
        (
            *("data={kind: digits}", "backbone.conditions=null"),
            *under("backbone", ("width=4", "blocks=1", "levels=2", "mixture=2", "values=17", "dropout=0")),
        ),
    ),
    "starflow": Tiny(
        "digits_starflow",
        under("backbone", (*BLOCKS[:2], "flows=2", "depths=[1, 2]", "positions.pairs=2")),
    ),
    "starflow_v": Tiny(
        "starflow_v",
        (
            "data={kind: npz, path: train.npz, fields: {text: {shape: [3, 8]}, text_mask: {shape: [3], dtype: bool}, "
            "x: {shape: [1, 3, 4, 6], axes: [channel, frame, height, width]}}}",
            *under("networks.main", (*BLOCKS[:2], "last_width=null", "flows=2", "depths=[1, 2]", "patch=2")),
            *under("networks.denoiser", (*BLOCKS[:2], "depth=1", "patch=2", "before=1")),
            *(f"networks.{name}.positions={{kind: rope_prefix, pairs: 2}}" for name in ("main", "denoiser")),
            "sampler.jacobi={block: 3, later: 6, iterations: 3, threshold: 0.01}",
        ),
    ),
    "rarm": Tiny(
        "rarm",
        (
            "data={kind: npz, path: train.npz, tokens: {vocabulary: 17, grid: [8, 8]}, fields: {clip: {shape: [8]}}}",
            *under("backbone", ("width=16", "depth=2", "block.mixer.heads=2", "block.feed_forward.hidden=64")),
            *("conditioning.neighbours.database=null", "sampler.top_k=5", "sampler.guidance.scale=1.5"),
        ),
    ),
    "ar_grpo": Tiny(
        "ar_grpo",
        (
            *("data={kind: digits, as: tokens}", *under("backbone", (*BLOCKS, "depth=1"))),
            *("backbone.block.feed_forward.multiple_of=16", "objective.group=2", "train.batch_size=4"),
            *("objective.rewards=[{kind: python, function: 'rewards:score'}]", "train.precision=fp32"),
        ),
    ),
    "llamagen_t2i": Tiny("llamagen_t2i", T2I),
    "taming": Tiny("taming", TAMING),
    "taming_depth": Tiny(
        "taming_depth",
        (
            *TAMING_DEPTH,
            *under(
                "networks.main", ("reading=spiral_out", "block.mixer={kind: prefix_attention, heads: 2, unmasked: 16}")
            ),
        ),
    ),
    "taming_scenes": Tiny(
        "taming_scenes",
        (
            *("data.tokens={vocabulary: 16, grid: [4, 4]}", "data.path=train.npz", "data.first_stage=null"),
            *("data.fields.layout={shape: [5], classes: 16}", "sampler.top_k=5"),
            *under("backbone", (*BLOCKS, "block.mixer.weight_dropout=0", "depth=1", "dropout=0")),
        ),
    ),
    "taming-windows": Tiny(
        "taming_depth",
        (
            *(*TAMING_DEPTH, "data.tokens.grid=[5, 6]", "data.fields.map.shape=[1, 10, 12]"),
            *("networks.main.window=[4, 4]", "sampler={kind: sliding, top_k: 5}"),
        ),
    ),
    "tarflow": Tiny("digits_tarflow", under("backbone", (*BLOCKS, "flows=2", "depth=1"))),
    "adc_gan": Tiny("adc_gan", GAN),
    "ada": Tiny("digits_ada", (*GAN, "networks.main.embedding=6", "networks.probability.images=100")),
    "few_shot": Tiny(
        "few_shot_biggan",
        (
            *(*GAN, "networks.main.pretrained=null", "networks.source.pretrained=null", "networks.source.frozen=true"),
            *under("networks.main", ("attention=[]", "embedding=6", "frozen=null")),
            *under("networks.source", ("channel_multipliers=[2, 2]", "width=8", "latent_dim=16", "attention=[]")),
            *("networks.source.embedding=6", "networks.discriminator.attention=[]"),
        ),
    ),
    "s2m": Tiny(
        "s2m",
        (
            *(*DIGITS, *under("networks.main", ("width=4", "channel_multipliers=[2, 2]", "attention=[]"))),
            *under("networks.main", ("latent_dim=8", "embedding=6", "pretrained=null", "frozen=true")),
            *under("networks.classifier", ("width=4", "first_multiplier=2", "last_multiplier=3")),
            "networks.classifier.stages=[{multiplier: 1, expansion: 1}, {multiplier: 2, stride: 2, expansion: 2}]",
            "sampler.steps=3",
        ),
    ),
    "pix2nerf": Tiny(
        "pix2nerf",
        (
            "data={kind: npz, path: train.npz, shape: [3, 4, 4], classes: 3}",
            "conditioning.class={kind: label, dropout: 0}",
            *under(
                "networks.main", ("width=8", "depth=2", "latent_dim=4", "mapping_width=8", "embedding=3", "points=3")
            ),
            *(
                "networks.discriminator.widths=[4, 6]",
                "networks.encoder.widths=[4, 6]",
                "networks.encoder.latent_dim=4",
            ),
            "objective.warmup=0",
            "sampler.chunk=7",
        ),
    ),
    "cond_cbnt": Tiny(
        "cond_cbnt",
        (
            "data={kind: npz, path: train.npz, classes: 3, fields: {x: {shape: [1, 4, 4]}, angle: {shape: [1]}}}",
            *under("networks.main", ("width=8", "depth=1", "omega=5", "own_width=4", "points=3")),
            "sampler.resolution=3",
            "sampler.chunk=7",
        ),
        "field",
    ),
    "pix2pixhd": Tiny(
        "pix2pixhd",
        (
            "data={kind: npz, path: train.npz, fields: {x: {shape: [3, 16, 16]}, "
            "labels: {shape: [16, 16], classes: 4}, instances: {shape: [16, 16], classes: 5}}}",
            *under("networks.main", ("width=8", "depth=2", "blocks=1")),
            *under("networks.discriminator", ("width=8", "depth=2")),
            *("networks.perceptual.width=2", "networks.perceptual.pretrained=null"),
        ),
    ),
    "pix2pixhd-features": Tiny(
        "pix2pixhd",
        (
            "data={kind: npz, path: train.npz, fields: {x: {shape: [3, 16, 16]}, "
            "labels: {shape: [16, 16], classes: 4}, instances: {shape: [16, 16], classes: 5}}}",
            *under("networks.main", ("width=8", "depth=2", "blocks=1")),
            *under("networks.discriminator", ("width=8", "depth=2")),
            *under("networks.encoder", ("width=4", "depth=1")),
            "networks.perceptual=null",
        ),
        "512-features",
    ),
    "cyclegan": Tiny(
        "cyclegan",
        (
            "data={kind: unpaired_digits}",
            *under("networks.main", ("width=4", "depth=1", "blocks=1")),
            *under("networks.reverse", ("width=4", "depth=1", "blocks=1")),
            *under("networks.discriminator", ("width=4", "depth=1")),
            *under("networks.reverse_discriminator", ("width=4", "depth=1")),
            "networks.pool.size=4",
        ),
    ),
    "vae": Tiny(
        "vae",
        (
            *(*DIGITS, *under("backbone", ("width=8", "hidden=16", "embedding=8", "latent_dim=4"))),
            "sampler.likelihood_samples=3",
        ),
    ),
    "self_vae": Tiny(
        "self_vae",
        (
            *DIGITS,
            "backbone.conditions=null",
            *under("backbone", ("latent_channels=2", "latent_side=4", "mixture=2", "values=17", "embedding=4")),
            "backbone.prior={scales: 2, growth: 2, steps: 1}",
            *(f"backbone.{name}={{growth: 4, steps: 1}}" for name in ("posterior", "last_posterior", "image_prior")),
            *(f"backbone.{name}={{growth: 8, steps: 1}}" for name in ("likelihood", "last_likelihood")),
            *(
                f"backbone.{name}={{growth: 4, steps: 1, layers: 1}}"
                for name in ("latent_prior", "joint_prior", "joint_likelihood")
            ),
            "sampler.likelihood_samples=2",
        ),
    ),
    "pulaski": Tiny(
        "pulaski",
        (
            "data={kind: npz, path: train.npz, fields: {x: {shape: [1, 8, 8]}, image: {shape: [1, 8, 8]}, "
            "raters: {shape: [3, 8, 8]}}}",
            *under("backbone", ("widths=[4, 6]", "convs=1", "latent_dim=3")),
            "objective.draws=3",
        ),
    ),
    "cgnc": Tiny(
        "cgnc",
        (
            *(*DIGITS, "objective.targets=[1, 3]", "objective.masked=0.5", "objective.patch=4"),
            *under("networks.main", ("width=4", "code=3", "groups=4", "heads=2")),
            *under("networks.texts", ("width=6", "pretrained=null", "frozen=true")),
            *under("networks.classifier", ("width=4", "layers=[1, 1, 1, 1]", "pretrained=null", "frozen=true")),
            *("networks.classifier.normalise=false", "networks.classifier.bottleneck=false"),
        ),
    ),
    "wgan_gp": Tiny("wgan_gp", GAN),
    "wgan_gp-conditional": Tiny("wgan_gp", GAN, "conditional"),
    "dc_ae": Tiny(
        "dc_ae",
        (
            *DIGITS,
            *under("backbone", ("widths=[8, 8, 16]", "blocks=[0, 1, 1]", "decoder_blocks=[0, 1, 1]", "attention=2")),
            *under("backbone", ("batch_normed=1", "head_width=4", "channels=4")),
        ),
    ),
    "dc_ae-sana": Tiny(
        "dc_ae",
        (
            *DIGITS,
            *under("backbone", ("widths=[8, 16]", "blocks=[1, 1]", "decoder_blocks=[1, 1]", "attention=1")),
            *under("backbone", ("scales=[3]", "head_width=4", "channels=4")),
        ),
        "sana",
    ),
    "sd_vae": Tiny("sd_vae", STAGE),
    "kl16": Tiny("sd_vae", (*STAGE, "backbone.attention=[1]"), "kl16"),
    "vq_f4": Tiny("vq_f4", (*STAGE, "backbone.bottleneck.size=16")),
    "vq_f16": Tiny("vq_f16", (*STAGE, *under("backbone", ("attention=[1]", "features=8", "bottleneck.size=16")))),
    "larp_tokenizer": Tiny(
        "larp_tokenizer",
        (
            *(*FILE, "data.fields.x.shape=[1, 4, 8, 8]"),
            *under("networks.main", ("tokens=5", "width=16", "depth=1", "patch=4", "frames=2", "block.mixer.heads=2")),
            "networks.main.bottleneck={kind: stochastic_codebook, size: 7, channels: 4, temperature: 0.5}",
            *under("networks.prior", ("width=16", "depth=1", "length=5", "channels=4", "dropout=0")),
            *under("networks.prior.block", ("mixer.heads=2", "mixer.dropout=0", "feed_forward.dropout=0")),
        ),
    ),
    "fractalgen": Tiny("fractalgen", FRACTAL),
    "fractalgen-causal": Tiny("fractalgen", (*FRACTAL[:-1], "sampler={kind: fractal, guidance: {scale: 2}}"), "AR-64"),
    "titok_tokenizer": Tiny("titok_tokenizer", (*TITOK, f"networks.main.pixels={TITOK_PIXELS}")),
    "titok_tokenizer-stage1": Tiny(
        "titok_tokenizer",
        (
            *(*TITOK, "networks.proxy.pretrained=null"),
            *under("networks.proxy", ("width=8", "multipliers=[1, 1, 1]", "blocks=1", "decoder_blocks=1", "groups=4")),
            "networks.proxy.bottleneck={kind: codebook, size: 8, channels: 4}",
        ),
        "stage1",
    ),
    "titok": Tiny(
        "titok",
        (
            *("data={kind: npz, path: train.npz, classes: 10, tokens: {vocabulary: 16, grid: [6]}}",),
            *(*under("backbone", (*BLOCKS, "block.mixer.weight_dropout=0", "depth=1", "dropout=0")),),
            *("backbone.embedding.labels=11", "sampler.steps=3"),
        ),
    ),
    "maskgen": Tiny(
        "maskgen",
        (
            "data={kind: npz, path: train.npz, tokens: {vocabulary: 16, grid: [6]}, fields: {caption: {shape: [3, 8]}, "
            "caption_pooled: {shape: [5]}, caption_null: {shape: [3, 8]}, caption_pooled_null: {shape: [5]}, "
            "aesthetic: {shape: [1]}}}",
            *under("backbone", ("width=16", "depth=2", "heads=2", "spare_rows=3")),
            *("conditioning.aesthetic.frequencies=8", "sampler.steps=3"),
        ),
    ),
    "vfmtok_tokenizer": Tiny(
        "vfmtok_tokenizer",
        (
            *("data={kind: npz, path: train.npz, shape: [3, 8, 8]}", "backbone.pretrained=null"),
            "backbone.fresh_weights=[]",
            "backbone.vision={width: 16, depth: 2, heads: 2, patch: 2, registers: 1, side: 3, levels: [0, 1]}",
            "backbone.regions={depth: 1, heads: 2, points: 2, hidden: 16, dropout: 0}",
            *under(
                "backbone",
                (
                    "tokens=4",
                    "width=16",
                    "depth=1",
                    "block.mixer.heads=2",
                    "block.mixer.weight_dropout=0",
                    "block.feed_forward.hidden=16",
                ),
            ),
            "backbone.pixels={width: 8, multipliers: [1, 1, 1], blocks: 1, groups: 4}",
            *under("backbone.bottleneck", ("size=8", "channels=4")),
        ),
    ),
    "lfdm_autoencoder": Tiny(
        "lfdm_autoencoder",
        (*FILE, "data.fields.x.shape=[1, 2, 8, 8]", *under("backbone", FLOW), "objective.scales=[1, 2]"),
    ),
    "hpdm": Tiny(
        "hpdm",
        (
            *(*FILE, "data.classes=3", "data.fields.x.shape=[1, 2, 8, 8]", "sampler.steps=2"),
            *under("backbone", (*RIN[:3], "blocks=[1, 1]", *RIN[4:], "patch=2")),
            # Sinusoids of 1000 times a number would make rounding errors of the times visible.
            "backbone.time_scale=10",
        ),
    ),
    "lfdm": Tiny(
        "lfdm",
        (
            *(*FILE, "data.fields.x.shape=[1, 2, 8, 8]", "data.fields.image.shape=[1, 8, 8]"),
            *under("networks.main", FLOW_UNET),
            *under("networks.autoencoder", (*FLOW, "pretrained=null", "frozen=true")),
            *("conditioning.time.frequencies=8", "sampler.steps=3"),
        ),
        "class",
    ),
    "llia": Tiny(
        "llia",
        (
            *(*FILE, "data.fields.x.shape=[1, 2, 8, 8]", "data.fields.image.shape=[1, 8, 8]"),
            *("data.fields.before.shape=[1, 1, 8, 8]", "data.fields.audio.shape=[3, 2, 3]"),
            *under("networks.main", ("width=8", "multipliers=[1, 1]", "blocks=1", "attention=[1]", "heads=2")),
            *("networks.main.groups=4", "networks.main.pretrained=null", "conditioning.time.frequencies=8"),
            *("conditioning.length.shortest=1", "sampler.steps=3"),
        ),
        "dynamic",
    ),
    "llia_consistency": Tiny(
        "digits_llia_consistency",
        (
            *("data.fields.x.shape=[1, 2, 8, 8]", "data.fields.before.shape=[1, 1, 8, 8]"),
            *("data.fields.audio.shape=[3, 1, 3]", "networks.main.width=8", "networks.main.multipliers=[1, 1]"),
            *("conditioning.time.frequencies=8", *FILE),
        ),
    ),
    "four_plane": Tiny(
        "four_plane",
        (
            "data={kind: npz, path: train.npz, classes: 10, shape: [4, 6]}",
            *(*under("backbone", (*BLOCKS, "depth=1")), "sampler.steps=3"),
        ),
    ),
    "four_plane_tokenizer": Tiny(
        "four_plane_tokenizer",
        (
            *(*FILE, "data.fields.x.shape=[1, 4, 8, 8]"),
            *under(
                "backbone", ("width=16", "depth=1", "decoder_depth=1", "patch=4", "frames=1", "block.mixer.heads=2")
            ),
            "backbone.bottleneck.channels=4",
        ),
    ),
    "vitok": Tiny(
        "vitok",
        (
            "data={kind: npz, path: train.npz, classes: 10, shape: [4, 6]}",
            *under("backbone", (*BLOCKS, "depth=1")),
            *("backbone.block.feed_forward.ratio=1", "sampler.steps=3"),
        ),
    ),
    "vitok_tokenizer": Tiny(
        "vitok_tokenizer",
        (
            *DIGITS,
            *under("backbone", ("width=16", "depth=1", "decoder_depth=1", "patch=2", "block.mixer.heads=2")),
            "backbone.bottleneck.channels=4",
        ),
    ),
    "ibq": Tiny("ibq", ("data={kind: digits, as: tokens}", *under("backbone", (*BLOCKS, "depth=1", "dropout=0")))),
    "ibq_tokenizer": Tiny(
        "ibq_tokenizer",
        (
            *DIGITS,
            *under("networks.main", ("width=8", "multipliers=[1, 2]", "blocks=1", "attention=[]", "groups=4")),
            "networks.main.bottleneck={kind: index_propagation, size: 16, channels: 4, entropy: 0.05}",
            *("networks.perceptual=null", "networks.discriminator={kind: patch_discriminator, width: 8, depth: 1}"),
        ),
    ),
    "open_magvit2": Tiny(
        "open_magvit2",
        (
            "data={kind: npz, path: train.npz, classes: 10, tokens: {vocabulary: 16, grid: [4, 4]}}",
            *under("backbone", (*BLOCKS, "depth=1", "dropout=0", "bits=[2, 2]", "part_depth=1")),
        ),
    ),
    "open_magvit2_tokenizer": Tiny(
        "open_magvit2_tokenizer",
        (
            *(*DIGITS, "networks.main.bottleneck.channels=4"),
            *under("networks.main", ("width=8", "multipliers=[1, 2]", "blocks=1", "decoder_blocks=1", "groups=4")),
            *("networks.perceptual=null", "networks.discriminator={kind: patch_discriminator, width: 8, depth: 1}"),
        ),
    ),
    "lpd": Tiny(
        "lpd",
        (
            *under("backbone", (*BLOCKS, "depth=2")),
            *("data={kind: digits, as: tokens}", "objective.steps=[8, 4]", "sampler.steps=4", "sampler.orders=4"),
        ),
    ),
    "xar": Tiny(
        "xar",
        (
            *DIGITS,
            *under("backbone", (*BLOCKS, "depth=1", "decoder_depth=1", "patch=2", "block.mixer.weight_dropout=0")),
            *("backbone.block.feed_forward.ratio=2", "conditioning.time.frequencies=16", "sampler.solver.steps=3"),
        ),
    ),
    "d_ar": Tiny(
        "d_ar",
        (
            *under("backbone", (*BLOCKS, "depth=2", "dropout=0", "block.feed_forward.multiple_of=8")),
            "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 16, grid: [5]}}",
        ),
        "L",
    ),
    "d_ar_tokenizer": Tiny(
        "d_ar_tokenizer",
        (
            *(*DIGITS, "sampler.steps=2"),
            *under(
                "backbone", ("width=16", "depth=1", "condition_depth=1", "pixel_depth=1", "patch=4", "pixel_patch=2")
            ),
            *under("backbone", ("queries=4", "group=2", "codebook=16", "channels=4", "rows=8", "block.mixer.heads=2")),
        ),
    ),
    "par": Tiny(
        "par",
        (
            *under("backbone", (*BLOCKS, "depth=2", "dropout=0", "block.feed_forward.multiple_of=8")),
            "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 16, grid: [4, 4]}}",
        ),
    ),
    "arpg": Tiny(
        "arpg",
        (
            *under("backbone", ("width=16", "depth=1", "query_depth=2", "block.mixer.heads=2")),
            *(
                "backbone.block.feed_forward.multiple_of=8",
                "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 16, grid: [3, 3]}}",
                "sampler.steps=3",
            ),
        ),
    ),
    "randar": Tiny(
        "randar",
        (
            *under("backbone", ("width=16", "depth=2", "block.mixer.heads=2", "block.feed_forward.multiple_of=8")),
            *(
                "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 16, grid: [3, 3]}}",
                "sampler.steps=3",
            ),
        ),
    ),
    "rar": Tiny(
        "rar",
        (
            *under("backbone", ("width=16", "depth=2", "block.mixer.heads=2", "block.feed_forward.ratio=2")),
            *("data={kind: digits, as: tokens}", "backbone.spare_positions=2", "backbone.spare_steps=1"),
            "objective.annealing=[0, 4]",
        ),
    ),
    "nvg": Tiny(
        "nvg",
        (
            "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 16, grid: [47]}}",
            *under("networks.main", GRANULES),
            *under("networks.structure", GRANULES),
            "networks.main.factors=[1, 4, 3, 2, 1.5, 1.25]",
            "networks.quantizer.codebook={size: 16, channels: 4, side: 4}",
            *("conditioning.time.frequencies=16", "sampler.structure_steps=2"),
        ),
    ),
    "var": Tiny(
        "var",
        (
            "data={kind: npz, path: train.npz, classes: 3, tokens: {vocabulary: 16, grid: [14]}}",
            *under("networks.main", ("width=16", "depth=2", "scales=[1, 2, 3]", "latent=4", "block.mixer.heads=2")),
            "networks.quantizer.codebook={size: 16, channels: 4, scales: [1, 2, 3]}",
            "sampler.top_k=8",
        ),
    ),
    "infinity": Tiny(
        "infinity",
        (
            "data={kind: npz, path: train.npz, shape: [4, 3, 3], fields: {caption: {shape: [5, 8]}, caption_mask: "
            "{shape: [5], dtype: bool}}}",
            *under("networks.main", ("width=16", "depth=2", "scales=[1, 2, 3]", "latent=4", "block.mixer.heads=2")),
            *(
                "networks.main.levels=null",
                "networks.main.grid=4",
                "networks.main.chunks=2",
                "conditioning.caption.head_width=4",
            ),
        ),
    ),
    "infinity_vae": Tiny(
        "infinity_vae",
        (*STAGE, "backbone.bottleneck={kind: multi_scale_bits, channels: 4, scales: [1, 3, 4], entropy: 0.1}"),
    ),
    "vq_multi_scale": Tiny(
        "vq_multi_scale",
        (
            *(*STAGE, "backbone.attention=[1]"),
            "backbone.bottleneck={kind: multi_scale_codebook, size: 16, channels: 4, scales: [1, 3, 4]}",
        ),
    ),
    "vq_multi_granularity": Tiny(
        "vq_multi_granularity",
        (
            *(*STAGE, "backbone.attention=[1]"),
            "backbone.bottleneck={kind: granularity_codebook, size: 16, channels: 4, side: 4}",
        ),
    ),
    "diffwave": Tiny(
        "diffwave",
        (
            *(*FILE, "data.fields.x.shape=[1, 128]", "data.fields.mel.shape=[8, 2]"),
            *under("backbone", ("width=8", "depth=4", "cycle=2", "time_width=16", "upsampling=[8, 8]")),
        ),
    ),
    "diffwave-class": Tiny(
        "diffwave_sc09",
        (
            *(*FILE, "data.fields.x.shape=[1, 128]", "data.fields.y.classes=3", "sampler.steps=4"),
            *under("backbone", ("width=8", "depth=4", "cycle=2", "time_width=16")),
        ),
        "class",
    ),
    "diffwave-unconditional": Tiny(
        "diffwave_sc09",
        (
            *(*FILE, "data.fields.x.shape=[1, 128]", "sampler.steps=4"),
            *under("backbone", ("width=8", "depth=4", "cycle=2", "time_width=16")),
        ),
    ),
    "music": Tiny(
        "music",
        (
            *(*FILE, "data.fields.x.shape=[2, 32]", "data.fields.x.rate=8", "sampler.steps=3"),
            *under("backbone", ("widths=[4, 8]", "factors=[1, 4]", "blocks=[1, 1]", "attention=[1]", "heads=2")),
            *under("backbone", ("head_width=4", "groups=4", "embedding=8")),
            *("conditioning.time.frequencies=6", "programs=[{kind: audio_edit, tasks: [infill, transition]}]"),
        ),
    ),
    "music_autoencoder": Tiny(
        "music_autoencoder",
        (
            *(*FILE, "data.fields.x.shape=[2, 32]", "data.fields.x.rate=8"),
            *under("backbone", ("widths=[4, 8]", "factors=[1, 4]", "blocks=[1, 1]", "channels=4", "groups=4")),
        ),
    ),
    "music_latent": Tiny(
        "music_latent",
        (
            *(*FILE, "data.fields.x.shape=[4, 8]", "data.first_stage=null", "sampler.steps=3"),
            *under("backbone", ("widths=[4, 8]", "factors=[1, 4]", "blocks=[1, 1]", "attention=[1]", "heads=2")),
            *under("backbone", ("head_width=4", "groups=4", "embedding=8")),
            *("conditioning.time.frequencies=6", "programs=[]"),
        ),
    ),
    "eeg": Tiny(
        "eeg",
        (
            *(*FILE, "data.fields.x.shape=[3, 16]", "data.fields.subject.classes=3", "sampler.steps=3"),
            *under("backbone", ("width=8", "depth=4", "cycle=2", "time_width=12", "hidden=10", "vector_width=6")),
            "conditioning.time.frequencies=8",
        ),
    ),
    "dc3do": Tiny(
        "dc3do",
        (
            *(*FILE, "data.classes=3", "data.fields.x.shape=[6]", "sampler.steps=3", "conditioning.time.frequencies=8"),
            *under("backbone", ("width=8", "depth=2")),
            "programs=[{kind: classify, trials: 2}]",
        ),
    ),
    "dc3do_points": Tiny(
        "dc3do_points",
        (
            *(*FILE, "data.classes=2", "data.fields.x.shape=[8, 3]", "sampler.steps=3"),
            *("conditioning.time.frequencies=8", "programs=[{kind: classify, trials: 2}]", *CLOUD),
        ),
    ),
    "cgan": Tiny(
        "cgan",
        (
            *(*DIGITS, "networks.main.dropout=0", "networks.discriminator.dropout=0"),
            *under("networks.main", ("latent_dim=5", "latent_width=6", "condition_width=7", "widths=[9]")),
            *under("networks.discriminator", ("state_width=6", "condition_width=5", "widths=[8]")),
            *under("networks.discriminator", ("pieces=3", "joint_pieces=2")),
        ),
    ),
    "clswgan": Tiny(
        "clswgan",
        (
            *(*FILE, "data.classes=3", "data.fields.x.shape=[6]", "data.fields.attributes.shape=[4]"),
            *under("networks", ("main.latent_dim=5", "main.widths=[9]", "discriminator.widths=[8]")),
            *under("networks.classifier", ("pretrained=null", "frozen=true")),
        ),
    ),
    "selfcond_gan": Tiny(
        "selfcond_gan",
        (
            *("data={kind: npz, path: train.npz, classes: 3, shape: [3, 8, 8]}", "objective.clustered=null"),
            *under("networks.main", ("width=2", "channel_multipliers=[2, 1]", "latent_dim=4", "embedding=3")),
            *under("networks.discriminator", ("width=2", "channel_multipliers=[1, 2]")),
        ),
    ),
    "selfcond_dcgan": Tiny(
        "selfcond_dcgan",
        (
            *(*FILE, "data.classes=3", "data.shape=[1, 8, 8]", "objective.clustered=null"),
            *under("networks.main", ("width=2", "channel_multipliers=[2, 1]", "latent_dim=4", "embedding=3")),
            *under("networks.discriminator", ("width=2", "channel_multipliers=[1, 2]")),
        ),
    ),
    "r3gan": Tiny(
        "r3gan",
        (
            *("data={kind: npz, path: train.npz, classes: 3, shape: [3, 8, 8]}", "networks.main.latent_dim=4"),
            *under("networks.main", ("width=2", "channel_multipliers=[2, 1]", "embedding=3")),
            *under("networks.discriminator", ("width=2", "channel_multipliers=[1, 2]", "embedding=5")),
            *("networks.main.groups=[2, 1]", "networks.main.blocks=[1, 1]"),
            *("networks.discriminator.groups=[1, 2]", "networks.discriminator.blocks=[1, 1]"),
        ),
    ),
    "stylegan_xl": Tiny(
        "stylegan_xl",
        (
            "data={kind: npz, path: train.npz, classes: 3, shape: [3, 8, 8]}",
            *under("networks.main", ("layers=[3]", "margin=1", "channel_base=16", "channel_max=4", "latent_dim=4")),
            *under("networks.main", ("style_dim=5", "class_features=3", "pretrained=null", "fresh_weights=[]")),
            *under("networks.discriminator", ("stem=4", "stem_stride=1", f"stages=[{EFFICIENT}]", "image=null")),
            *under("networks.discriminator", ("mixed=2", "width=8", "last=4", "class_features=3")),
            *under("networks.discriminator", ("pretrained=null", "fresh_weights=[]")),
        ),
    ),
    "stylegan_xl_classifier": Tiny(
        "stylegan_xl_classifier",
        (
            *(*FILE, "data.classes=3", "data.shape=[3, 8, 8]", "backbone.stem=4", "backbone.stem_stride=1"),
            *(f"backbone.stages=[{EFFICIENT}]", "backbone.head=6"),
        ),
    ),
    "clswgan_classifier": Tiny("clswgan_classifier", (*FILE, "data.classes=3", "data.fields.x.shape=[6]")),
    "mcmi": Tiny("mcmi", (*DIGITS, "data.class_names=null", *under("networks.main", RESNET))),
    "mcmi_student": Tiny(
        "mcmi_student",
        (*DIGITS, "data.class_names=null", *under("networks.main", RESNET), *under("networks.teacher", RESNET)),
    ),
    "tcn_teacher": Tiny("tcn_teacher", (*DIGITS, *under("backbone", ("stages=[[4]]", "hidden=[6, 8]", *UNDROPPED)))),
    "tcn": Tiny(
        "tcn",
        (
            *DIGITS,
            *under("networks.main", ("students=2", "stages=[[4]]", "hidden=[5]", "features=8", *UNDROPPED)),
            *("networks.main.student_dropout=0", "networks.teacher.stages=[[4]]", "networks.teacher.hidden=[6, 8]"),
            *under("networks.teacher", UNDROPPED),
        ),
    ),
    "ogen": Tiny(
        "ogen",
        (
            *(*FILE, "data.classes=4", "data.fields.x.shape=[8]", "backbone.new=3", "backbone.neighbours=2"),
            *(
                "backbone.heads=2",
                "backbone.pretrained=null",
                "backbone.fresh_weights=[]",
                "objective.warmup=1",
                "backbone.scale=10",
            ),
        ),
    ),
    "dp3": Tiny(
        "dp3",
        (
            *(*FILE, "data.fields.x.shape=[4, 2]", "data.fields.point_cloud.shape=[2, 16, 3]"),
            *("data.fields.agent_pos.shape=[2, 4]", "sampler.steps=3"),
            *under("networks.main", ("widths=[8, 16]", "time_width=8", "kernel=3", "groups=4")),
            *under("networks.encoder", ("widths=[8, 16]", "features=8", "state_widths=[8, 8]")),
        ),
    ),
    "rcg": Tiny(
        "rcg",
        (
            *(*FILE, "data.fields={x: {shape: [1, 8, 8]}, representation: {shape: [6]}}", "data.first_stage=null"),
            *under("networks.main", (*BLOCKS, "depth=1", "patch=2")),
            *under("networks.rdm", ("width=16", "depth=1", "time_width=8", "context=8")),
            *("data.classes=3", "data.class_names=null", "sampler.steps=3"),
            "conditioning.representation.prior.sampler.steps=3",
        ),
        "class",
    ),
    "rcg_ldm": Tiny(
        "rcg_ldm",
        (
            *(*FILE, "data.fields={x: {shape: [2, 8, 8]}, representation: {shape: [6]}}", "data.first_stage=null"),
            *under("networks.main", ("width=8", "multipliers=[1, 2]", "blocks=1", "attention=[1]")),
            *("networks.main.block.head_channels=8", "networks.main.block.groups=4", "conditioning.time.frequencies=8"),
            *(*under("networks.rdm", ("width=16", "depth=1", "time_width=8")), "sampler.steps=3"),
            "conditioning.representation.prior.sampler.steps=3",
        ),
    ),
    "rcg_mage": Tiny(
        "rcg_mage",
        (
            *(*FILE, "data.tokens={vocabulary: 16, grid: [2, 3]}", "data.fields={representation: {shape: [6]}}"),
            *under("networks.main", (*BLOCKS, *WITHIN, "depth=1", "decoder={width: 16, depth: 1, heads: 2}")),
            *("networks.main.embedding={labels: 4, blank: 2}", "data.first_stage=null", "sampler.steps=3"),
            *under("networks.rdm", ("width=16", "depth=1", "time_width=8")),
            "conditioning.representation.prior.sampler.steps=3",
        ),
    ),
    "rin": Tiny(
        "rin", (*DIGITS, "data.first_stage=null", "data.class_names=null", *under("backbone", RIN), "sampler.steps=3")
    ),
    "cad": Tiny(
        "cad",
        (
            *(*FILE, "data.shape=[1, 8, 8]", "data.first_stage=null", "sampler.steps=3", "sampler.guidance.scale=2"),
            *("data.fields.text.shape=[3, 5]", "data.fields.text_mask.shape=[3]"),
            # Sinusoids of 1000 times a number would make rounding errors of the times visible.
            *under("backbone", (*RIN, "registers=2", "sequence_layers=1", "time_scale=10")),
        ),
    ),
    "umd": Tiny(
        "umd",
        (
            *(*DIGITS, "data.class_names=null", "sampler.steps=3", "objective.hidden=0.25"),
            *under("backbone", ("width=16", "depth=1", "decoder_depth=1", "patch=2", "block.mixer.heads=2")),
        ),
        "B/4-labels",
    ),
    "pixelflow": Tiny(
        "pixelflow",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS, "depth=1", "patch=2", "stages=2")), "objective.stages=2"),
            *("sampler.steps=2", "sampler.guidance.weights=null"),
        ),
    ),
    "pixelflow-adaptive": Tiny(
        "pixelflow",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS, "depth=1", "patch=2", "stages=2")), "objective.stages=2"),
            *("sampler.adaptive={rtol: 0.3, atol: 0.3, max_steps: 5}", "sampler.guidance.weights=null"),
        ),
    ),
    "pixelflow_t2i": Tiny(
        "pixelflow_t2i",
        (
            "data={kind: npz, path: train.npz, shape: [1, 8, 8], fields: {text: {shape: [5, 8]}, "
            "text_mask: {shape: [5], dtype: bool}}}",
            *(*under("backbone", (*BLOCKS, "depth=1", "patch=2", "stages=2")), "objective.stages=2", "sampler.steps=2"),
        ),
    ),
    "diffmoe": Tiny("diffmoe", (*EXPERTS, *under("backbone.interleaved", ("experts=3", "ratio=1")))),
    "diffmoe-expert_choice": Tiny(
        "diffmoe", (*EXPERTS, *under("backbone.interleaved", ("experts=3", "ratio=1", "shared=1"))), "EC-L-E16"
    ),
    "dis": Tiny(
        "dis",
        (
            *(*DIGITS, *under("backbone", ("width=16", "half=1", "mixer.state=3", "mixer.expand=1"))),
            *("conditioning.time.frequencies=16", "sampler.steps=3", WHOLE),
        ),
    ),
    "lit": Tiny(
        "lit",
        (
            *(*DIGITS, *under("networks.main", ("width=16", "depth=1", "block.mixer.heads=2", "block.mixer.kernel=3"))),
            *(*under("networks.teacher", (*BLOCKS, "depth=1")), "sampler.steps=3", WHOLE),
        ),
    ),
    "lit_t2i": Tiny(
        "lit_t2i",
        (
            *(CAPTIONED, *under("networks.main", ("width=16", "depth=1", "patch=2"))),
            *under("networks.main.block.mixer", ("heads=2", "kernel=3")),
            *(*under("networks.teacher", (*BLOCKS, "depth=1")), "sampler.steps=3"),
        ),
    ),
    "can": Tiny(
        "can",
        (*EXPERTS, "backbone.block.mixer={kind: generated_linear_attention, heads: 2, kernel: 3}"),
    ),
    "jit": Tiny(
        "jit",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS, "depth=2", "patch=4", "bottleneck=4", "context=2"))),
            *("backbone.context_start=1", "sampler.steps=3"),
        ),
    ),
    "pmf": Tiny(
        "digits_pmf",
        (*under("backbone", (*BLOCKS, "depth=2", "velocity_head=1", "bottleneck=4")), "sampler.steps=2"),
    ),
    "drifting": Tiny(
        "digits_drifting",
        (
            *under("networks.main", ("width=16", "depth=1", "block.mixer.heads=2", "class_tokens=1", "code_count=2")),
            *(
                "networks.features.width=4",
                "networks.features.groups=2",
                "networks.bank.of_class=3",
                "networks.bank.of_all=5",
            ),
            *("objective.samples=2", "objective.positives=2", "objective.negatives=2"),
        ),
    ),
    "drifting_features": Tiny("digits_drifting_features", ("networks.main.width=4", "networks.main.groups=2")),
    "mdt": Tiny(
        "mdt",
        (
            *(*DIGITS, *under("backbone", (*BLOCKS, "depth=3", "decoder_depth=1"))),
            *("conditioning.time.frequencies=16", "objective.process.steps=50", "sampler.steps=3"),
            "sampler.guidance.channels=1",
        ),
    ),
    "tread": Tiny("tread", (*DIT, "backbone.routes=[{start: 1, end: 1, ratio: 0.5}]", "sampler.steps=3")),
    "mean_flow_cifar10": Tiny(
        "mean_flow_cifar10",
        (
            *DIGITS,
            *under("backbone", UNET),
            *("backbone.block.head_channels=8", "conditioning.time.frequencies=16", "sampler.steps=2"),
            *("backbone.early=[]", "conditioning.augment=null"),
        ),
    ),
    "shortcut": Tiny("shortcut", (*DIT, "conditioning.step_size.finest=8", "sampler.steps=2")),
    "soflow": Tiny("soflow", (*DIT, "sampler.steps=2")),
    "imm": Tiny("imm", (*DIT, "sampler.steps=2")),
    "tim": Tiny(
        "digits_tim", (*under("backbone", (*BLOCKS[:2], "depth=1", "block.condition.hidden=8")), "sampler.steps=2")
    ),
    "fitv2": Tiny(
        "digits_fitv2",
        (*under("backbone", (*BLOCKS[:2], "depth=1", "block.condition.rank=4")), "sampler.steps=2"),
    ),
    "fitv2_images": Tiny(
        "fitv2",
        (
            "data={kind: npz, path: train.npz, classes: 10, shape: [1, 6, 8]}",
            *under("backbone", (*BLOCKS[:2], "depth=1", "block.condition.rank=4")),
            *(
                "backbone.extrapolation={method: ntk, trained: 3}",
                "sampler.steps=2",
                "conditioning.time.frequencies=16",
            ),
            "sampler.guidance.channels=1",
        ),
    ),
    "mean_flow": Tiny("mean_flow", (*DIT, "sampler.steps=2")),
    "improved_mean_flow": Tiny(
        "digits_improved_mean_flow", (*under("backbone", (*BLOCKS, "depth=2", "velocity_head=1")), "sampler.steps=2")
    ),
    "interpolant_inpaint": Tiny(
        "digits_sr",
        (
            *under("backbone", (*BLOCKS, "depth=1")),
            *("conditioning.low=null", "conditioning.known={kind: masked_image, tiles: 4}"),
            *("objective.coupling={kind: hole}", "sampler={kind: dopri5, rtol: 0.1, atol: 0.1, max_steps: 30}"),
        ),
    ),
    "pixart": Tiny(
        "pixart",
        (
            CAPTIONED,
            *under("backbone", (*BLOCKS, "depth=1", "patch=2")),
            "sampler.steps=3",
        ),
    ),
    "controlled": Tiny(
        "digits_controlled",
        (*under("networks.main", (*BLOCKS, "depth=4")), "networks.adapter.blocks=3", "sampler.guidance={scale: 2}"),
    ),
    "ppgn": Tiny(
        "digits_ppgn",
        (
            *("networks.main.width=32", "networks.main.multipliers=[1]", "networks.main.bottleneck.channels=2"),
            *("networks.observer.width=4", "sampler.steps=2"),
        ),
    ),
    "guidance_distillation": Tiny("dit_guidance_distillation", (*DIT, "objective.channels=null", "sampler.steps=4")),
    "progressive_distillation": Tiny(
        "dit_progressive_distillation", (*DIT, "objective.rounds=[4, 2]", "sampler.steps=2")
    ),
}
