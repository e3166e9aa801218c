"""Systems of tokens, pixels and normalising flows at sizes that learn digits; see `training_parts.py`.

What is compared differs in nothing but the technique. All of it was settled before anything was trained
for it, but for the samplers of Taming's transformer and MaskBit, of which three settings each were tried, and for
the steps at a falling rate of the PixelCNNs, added after a constant rate had missed their goals.
"""

from __future__ import annotations

from training_parts import (
    BITS,
    DIGITS,
    SCORED_LEVELS,
    SETTINGS,
    SPOKEN_LEVELS,
    Drawn,
    Goal,
    System,
    Trained,
    accurate,
    difference,
    ratio,
    under,
)

JEPA = "{kind: gelu_mlp, approximate: none}, norm: {kind: layer_norm, affine: true}, condition: {kind: in_context}}"
JEPA = f"{{mixer: {{kind: attention, heads: 4, qk_norm: {{kind: rms_norm}}}}, feed_forward: {JEPA}"
JEPA = (f"networks.main={{kind: predictive_autoencoder, width: 64, depth: 2, patch: 2, buffer: 4, block: {JEPA}}}",)
PREDICTED = "{kind: predictive_diffusion, process: {kind: discrete, schedule: linear}, variance: learned_range, "
PREDICTED = (f"objective={PREDICTED}prediction: {{target: target}}}}", "networks.target={kind: average, decay: 0.99}")
PREDICTED += JEPA

# Tokens of grey levels, at the size of digits_maskgit.
LEVEL_TOKENS = "data={kind: digits, as: tokens}"
GPT = ("width=64", "depth=4", "block.mixer.heads=4", "block.mixer.dropout=0", "block.feed_forward.dropout=0")
TOKENS = ("train.steps=1500", "train.batch_size=64", "train.optimizer={kind: adamw, lr: 2e-3, weight_decay: 0.03}")
TOKENS += ("train.schedule={kind: cosine, warmup: 50}", "train.ema=0.99", "train.clip=1.0", *under("backbone", *GPT))
BERT = (*TOKENS, "backbone.dropout=0", "sampler.steps=16", "sampler.randomness=8")
TOLD_TOKENS = "{kind: npz, path: %s, tokens: {vocabulary: 16, grid: [8, 8]}, classes: 0, fields: "
TOLD_TOKENS += "{caption: {shape: [1, 10]}, caption_mask: {shape: [1], dtype: bool}}}"
SPOKEN = (f"data={TOLD_TOKENS % SPOKEN_LEVELS}", *TOKENS, "backbone.dropout=0", "train.steps=3000")
SPOKEN += ("sampler.top_k=0", "sampler.top_p=0.95", "sampler.guidance.scale=1.5")
SCORED = "{caption: {shape: [1, 10]}, caption_null: {shape: [1, 10]}, caption_pooled: {shape: [10]}, "
SCORED += "caption_pooled_null: {shape: [10]}, aesthetic: {shape: [1]}}"
MASKGEN = (f"data={{kind: npz, path: {SCORED_LEVELS}, tokens: {{vocabulary: 16, grid: [64]}}, fields: {SCORED}}}",)
MASKGEN += under("train", "steps=1500", "batch_size=64", "optimizer={kind: adamw, lr: 2e-3, weight_decay: 0.03}")
MASKGEN += under("train", "schedule={kind: cosine, warmup: 50}", "ema=0.99", "precision=fp32")
MASKGEN += under("backbone", "width=64", "depth=3", "heads=4", "spare_rows=0")
MASKGEN += under("sampler", "randomness=4", "temperatures=[1, 1]", "guidance={scale: 1, schedule: constant}")
# The rate falls in the last fifth of the steps.
SETTLED = ("train.schedule={kind: linear, warmup: 50, hold: 0.8, final: 0.02}",)
# RCG: no class is given, but a representation, the first principal components of the digit.
REPRESENTED = (
    "data={kind: digits, as: tokens, fields: {representation: {shape: [16]}}}",
    *TOKENS[1:6],
    *("train.steps=1000", "train.precision=fp32", "train.optimizers={}", "sampler.steps=16", "sampler.randomness=8"),
    *under("networks.main", *GPT, "dropout=0", "depth=3", "decoder={width: 64, depth: 1, heads: 4}"),
    "networks.main.embedding={labels: 10, blank: 2, shared: false}",
)
RDM = under("networks.rdm", "width=128", "depth=3", "time_width=64")
RDM += under(
    "conditioning.representation.prior", "sampler.steps=50", "objective.process={kind: discrete, schedule: cosine}"
)
NO_RDM = ("networks.rdm=null", "conditioning.time=null", "weights={}")
# The pixels of digits have 17 values.
PIXELS = (*SETTINGS, DIGITS, "train.steps=1500", "train.optimizer.lr=1e-3")
GATED = under("backbone", "width=32", "depth=5", "kernel=3", "first_kernel=5", "head_width=64", "values=17")
ENCODER = "networks.encoder={kind: convolution, size: 10, widths: [16, 32]}"
LOGISTIC = under("backbone", "width=24", "blocks=2", "levels=2", "mixture=5", "values=17", "dropout=0")
PLAIN = ("backbone.weight_norm=false",)


def any_order(spec: str) -> System:
    """A network that decodes tokens in random orders: the 64 of a digit one by one, and in a quarter of the steps."""
    whole, quarter = "64 evaluations", "16 evaluations"
    return System(
        {"trained": Trained(spec)},
        {f"{steps} evaluations": Drawn("trained", (f"sampler.steps={steps}",)) for steps in (64, 16)},
        (
            Goal("class accuracy, one by one", lambda f: f[whole]["accuracy"], 0.95),
            Goal("class accuracy lost in a quarter", difference("accuracy", whole, quarter), 0.02, False),
            Goal("seconds in a quarter", ratio("seconds", quarter, whole), 0.5, False),
        ),
    )


TOKEN_SYSTEMS: dict[str, System] = {
    "d_jepa": System(
        {"plain": Trained("digits_mar", JEPA, 1000), "predicted": Trained("digits_mar", PREDICTED, 1000)},
        {name: Drawn(name) for name in ("plain", "predicted")},
        (
            Goal("class accuracy with predicted features", lambda f: f["predicted"]["accuracy"], 0.9),
            Goal("Fréchet distance with predicted features", ratio("frechet", "predicted", "plain"), 1.0, False),
        ),
    ),
    "maskgit_jax": accurate("maskgit_jax", (LEVEL_TOKENS, *BERT, "backbone.embedding.labels=10")),
    "mage": accurate(
        "mage",
        (
            *(LEVEL_TOKENS, *BERT, "conditioning={class: {kind: label, dropout: 0}}"),
            *("backbone.decoder={width: 64, depth: 2, heads: 4}", "backbone.embedding={labels: 10, shared: false}"),
        ),
    ),
    "maskbit": accurate(  # two groups of two bits
        "maskbit",
        (
            f"data={{kind: npz, path: {BITS}, classes: 10, tokens: {{vocabulary: 16, grid: [8, 8]}}}}",
            *(*BERT, "sampler.guidance={scale: 2, schedule: cosine, power: 3}"),
        ),
        steps=3000,
        sampler=("sampler.randomness=2",),
    ),
    "taming": accurate("taming", (LEVEL_TOKENS, *TOKENS), steps=3000, sampler=("sampler.top_k=0", "sampler.top_p=0.9")),
    "givt": accurate("digits_givt"),
    "himar": accurate("digits_himar"),
    "llamagen_t2i": System(
        {"captions": Trained("llamagen_t2i", SPOKEN)},
        {"captions": Drawn("captions", judge="captioned", given={"condition": "caption"})},
        (Goal("class accuracy by captions", lambda f: f["captions"]["accuracy"], 0.9),),
    ),
    "maskgen": System(
        {"captions": Trained("maskgen", MASKGEN)},
        {"captions": Drawn("captions", judge="scored")},
        (
            Goal("class accuracy by captions", lambda f: f["captions"]["accuracy"], 0.9),
            Goal(
                "difference of mean levels, as a share of the one asked for",
                lambda f: (
                    (f["captions"]["high"] - f["captions"]["low"])
                    / (f["captions"]["high asked"] - f["captions"]["low asked"])
                ),
                0.5,
            ),
        ),
    ),
    "pixelcnn": System(
        {
            "auto-encoder": Trained("pixelcnn", (*PIXELS, *GATED, ENCODER, *SETTLED), 1600, "autoencoder"),
            "class": Trained("pixelcnn", (*PIXELS, *GATED, *SETTLED), 3600, "imagenet32-class"),
        },
        {"class": Drawn("class"), "auto-encoder": Drawn("auto-encoder", judge="compressed")},
        (
            Goal("class accuracy", lambda found: found["class"]["accuracy"], 0.95),
            Goal("class accuracy by ten numbers of a digit", lambda found: found["auto-encoder"]["accuracy"], 0.8),
        ),
    ),
    "pixelcnn_pp": System(
        {
            "plain": Trained("pixelcnn_pp", (*PIXELS, *PLAIN, *LOGISTIC), 4000, "cifar10-class"),
            "normed": Trained("pixelcnn_pp", (*PIXELS, *LOGISTIC, *SETTLED), 5000, "cifar10-class"),
        },
        {"plain": Drawn("plain"), "normed": Drawn("normed")},
        (Goal("class accuracy with weight norm", lambda found: found["normed"]["accuracy"], 0.95),),
    ),
    "rcg_mage": System(
        {
            "represented": Trained("rcg_mage", (*REPRESENTED, *RDM)),
            "alone": Trained("rcg_mage", (*REPRESENTED, *NO_RDM, "conditioning.representation=null")),
        },
        {
            "alone": Drawn("alone", judge="alone"),
            "of digits": Drawn(
                "represented",
                judge="represented",
                spec=Trained("rcg_mage", (*REPRESENTED, *NO_RDM, "conditioning.representation.prior=null")),
            ),
            "represented": Drawn("represented", judge="alone"),
        },
        (
            Goal("Fréchet distance with a drawn representation", ratio("frechet", "represented", "alone"), 1.0, False),
            Goal("class accuracy by representations of held-out digits", lambda f: f["of digits"]["accuracy"], 0.9),
        ),
    ),
    "rarm": System(
        {"retrieval": Trained("digits_rarm")},
        {"queries of a class": Drawn("retrieval", judge="referred", given={"spec": "digits_rarm"})},
        (Goal("class accuracy by the query of a class", lambda f: f["queries of a class"]["accuracy"], 0.9),),
    ),
    "lpd": accurate("digits_lpd"),
    "ibq": accurate("digits_ibq"),
    "tokenbridge": accurate("digits_tokenbridge"),
    "fractalgen": accurate("digits_fractalgen"),
    "open_magvit2": accurate(  # two parts of two bits
        "open_magvit2",
        (
            f"data={{kind: npz, path: {BITS}, classes: 10, tokens: {{vocabulary: 16, grid: [8, 8]}}}}",
            *(*TOKENS, "train.steps=1000", "backbone.bits=[2, 2]", "backbone.part_depth=1", "backbone.dropout=0"),
            *("backbone.block.feed_forward.multiple_of=32", "sampler.guidance.scale=1.5"),
        ),
    ),
    "xar": accurate("digits_xar"),
    "par": accurate("digits_par"),
    "arpg": any_order("digits_arpg"),
    "randar": any_order("digits_randar"),
    "sedd": accurate("digits_sedd"),
    "bd3lm": accurate("digits_bd3lm"),
    "rar": System(
        {"raster": Trained("digits_rar", ("objective.annealing=[0, 1]",)), "annealed": Trained("digits_rar")},
        {name: Drawn(name) for name in ("raster", "annealed")},
        (
            Goal("class accuracy of annealed orders", lambda f: f["annealed"]["accuracy"], 0.95),
            Goal("Fréchet distance of annealed orders", ratio("frechet", "annealed", "raster"), 1.0, False),
        ),
    ),
    "starflow_class": System(  # eight blocks each, in flows of equal depth or in a deep one behind shallow ones
        {"tarflow": Trained("digits_tarflow"), "starflow": Trained("digits_starflow")},
        {
            f"{name}, {rule} guidance at {scale}": Drawn(
                name, (f"backbone.guidance={rule}", "sampler.kind=flow_inverse"), given={"guidance": scale}
            )
            for name in ("tarflow", "starflow")
            for rule in ("linear", "density")
            for scale in (1.5, 3.0, 6.0)
        },
    ),
}
