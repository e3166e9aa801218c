"""What `training_digits.py` trains, draws and compares: published systems at sizes that learn digits.

Those of diffusion and flows are here. What is compared differs in nothing but the technique. All of it was settled
before anything was trained for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from training_captions import CAPTION_SYSTEMS
from training_parts import (
    CAPTIONS,
    DIGITS,
    LEVELS,
    SETTINGS,
    UNET,
    Drawn,
    Figures,
    Goal,
    System,
    Trained,
    difference,
    ratio,
    under,
)
from training_representations import REPRESENTATION_SYSTEMS
from training_tokens import TOKEN_SYSTEMS

EULER = "sampler={kind: euler, steps: 20}"

FLOW, DENOISER = Trained("digits_sit"), Trained("digits_dit")
ROUTES = ("backbone.kind=tread_transformer", "backbone.routes=[{start: 1, end: 2, ratio: 0.5}]")
# Twelve blocks of 64 tokens, as deep as B: seven of them see half of the tokens in a step with routes.
DEEP = ("backbone.depth=12", "backbone.width=48", "backbone.patch=1", "train.batch_size=32")
LONG_ROUTE = ("backbone.kind=tread_transformer", "backbone.routes=[{start: 2, end: -4, ratio: 0.5}]")
GUIDED_BY = "sampler={kind: euler, steps: 20, guidance: {%s}}"
# The authors' scales of guidance, and where it acts.
GUIDED = "sampler={kind: euler, steps: 20, guidance: [{scale: 1.85, interval: [0.35, 1]}%s]}"
LESS = ", {kind: interference, network: mean, scale: 0.05, interval: [0.35, 1]}"
MEAN = (
    "networks.mean={kind: constant}",
    "objective.further=[{kind: contrast, weight: 0.05, mean: mean}]",
    GUIDED % LESS,
)
SUPER = ("conditioning.low={kind: low_resolution, factor: 4}", "sampler={kind: heun, steps: 10}")
UPSAMPLED = "objective.coupling={kind: upsampled, condition: low, std: 0.5}"
ATTENTIVE = (*SETTINGS, DIGITS, *SUPER[1:], "conditioning.low.factor=4", "objective.coupling.std=0.5")
LINEAR = "mixer={kind: efficient_attention, heads: 2, head_width: 16, norm: {kind: rms_norm, eps: 1e-12}}"
ATTENTIVE += under("backbone", "width=16", "multipliers=[1, 2]", LINEAR, "middle.heads=2", "middle.head_width=16")
HOLES = ("conditioning.known={kind: masked_image, tiles: 4, hidden: 0.3}", "sampler={kind: heun, steps: 10}")
HOLE = "objective.coupling={kind: hole, condition: known}"
CASCADE = ("backbone.kind=cascade_transformer", "backbone.stages=2", "backbone.positions={kind: rope_2d}")
CASCADE += ("objective={kind: cascaded_flow, stages: 2}", "sampler={kind: cascade, steps: 10}")

VP = (*SETTINGS, f"data={{kind: npz, path: {LEVELS}, shape: [1, 8, 8]}}", *(f"backbone.{size}" for size in UNET))
VP += ("conditioning.time.frequencies=32",)
CORRECTED = "sampler={kind: predictor_corrector, steps: %d, corrector: %s}"
POISSON = "objective.process={kind: pfgmpp, extra_dimensions: 64, sigma_data: 0.7, p_mean: -0.8, p_std: 1.2}"
WEAK = ("networks.main.width=16", "networks.main.block.head_channels=16", "train.ema.target=0.1")
GUIDE = "networks.guide={kind: mp_unet, width: 16, frequencies: 32, multipliers: [1, 2], blocks: 1, attention: [1], "
GUIDE += "block: {head_channels: 16, dropout: 0.05}, frozen: true}"
AUTO = "sampler.guidance={kind: autoguidance, network: guide, scale: %s}"
SCALES = (1.1, 1.2, 1.35, 1.5)

FIELDS = "{text: {shape: [1, 10]}, text_mask: {shape: [1], dtype: bool}, coherence: {}}"
RIN = ("data_width=32", "width=64", "latents=10", "blocks=2", "layers=1", "patch=2", "heads=4", "compute_heads=4")
COHERENT = (*SETTINGS, f"data={{kind: npz, path: {CAPTIONS}, shape: [1, 8, 8], fields: {FIELDS}}}")
COHERENT += (*(f"backbone.{size}" for size in (*RIN, "registers=2", "sequence_layers=1")), "sampler.steps=50")
COHERENT += ("sampler.guidance=null", "train.optimizer.lr=3e-3", "objective.process.schedule=sigmoid")

COSINE = "objective.process={kind: discrete, schedule: cosine}"  # that of the denoiser
RESNET = "kind: resnet_classifier, layers: [1, 1, 1, 1], width: 16"
ADAPTED = f"{{{RESNET.replace('resnet_classifier', 'adapted_resnet')}, adapter: {{rank: 4, alpha: 4}}"
TEACHER = (*SETTINGS, DIGITS, f"networks.main={{{RESNET}}}", "networks.teacher=null")
TEACHER += ("objective={kind: classification}", "weights={}", "train.ema=null")  # of 200 steps, averages lag
EXPERT = (*SETTINGS, DIGITS, f"networks.main={ADAPTED}, copy_of: teacher}}", "train.ema=null", COSINE)
EXPERT += (f"networks.teacher={{{RESNET}, pretrained: teacher.safetensors}}", "weights={}")
EXPERTS = tuple(f"expert_{i}" for i in range(5))
TOLD = ("networks.main.conditions=[class]", "sampler.steps=25")
NO_CLASS = "{scale: 0}"  # u + 0 (c - u): the prediction without the class
# Without the first step, whose state has no signal: a gradient counts 1 / alpha times there.
GRADIENTS = "interval: [0.02, 1]"
TOWARDS = f"sampler.guidance=[{{scale: 0}}, {{kind: classifier_experts, experts: [%s], scale: 7.5, {GRADIENTS}}}]"
ALL_NOISE = Trained("ppap_expert", (*EXPERT, "objective.range=[0, 1]"), 2500, pretrained={"teacher": "teacher"})
SKETCH = ("data.fields={sketch: {shape: [1, 8, 8]}}", "conditioning.sketch={kind: array}", *TOLD)
LIKE = f"sampler.guidance=[{{scale: 0}}, {{kind: score, scale: 64, {GRADIENTS}, score: "
LIKE += "{kind: likeness, reference: sketch%s}}]"

# Scores and a classifier of noisy digits, on the VE SDE.
NOISY = (*SETTINGS, DIGITS, "objective.process.sigma_max=8", "conditioning.time.frequencies=32")
SIZED = (*UNET, "recentre=false")
NOISY_200 = (*NOISY, "sampler.steps=200", "train.ema=0.99")
SCORES = Trained("score_sde", (*NOISY_200, "objective.reduction=mean", *under("backbone", *SIZED)), 1500)
WIDE = ("blocks=1", "multiplier=2", "mean=[0.0]", "deviation=[1.0]")


def own(name: str) -> tuple[str, ...]:
    """A network of that name, to sample with."""
    return (f"networks.{name}={ADAPTED}, frozen: true}}",)


def chosen(found: Mapping[str, Figures]) -> float:
    """The scale of autoguidance with the least Fréchet distance of the samples that it is chosen by."""
    return min(SCALES, key=lambda scale: found[f"auto {scale}, to choose"]["frechet"])


SYSTEMS: dict[str, System] = {
    "edm2_autoguidance": System(
        {"strong": Trained("digits_edm2"), "weak": Trained("digits_edm2", WEAK, 200)},
        {
            "none": Drawn("strong", ("sampler.guidance=null",)),
            "class": Drawn("strong", ("sampler.guidance={scale: 2}",)),
            "auto": Drawn("strong", (GUIDE, AUTO % 2), networks={"guide": "weak"}),
            # Small scales, of which one is chosen by the samples of other seeds.
            **{
                name: Drawn("strong", (GUIDE, AUTO % scale), given=seeds, networks={"guide": "weak"})
                for scale in SCALES
                for name, seeds in ((f"auto {scale}, to choose", {"later": 1_000_000}), (f"auto {scale}", {}))
            },
        },
        (
            Goal("Fréchet distance under autoguidance, of none", ratio("frechet", "auto", "none"), 1.0, False),
            Goal("Fréchet distance under autoguidance, of the class's", ratio("frechet", "auto", "class"), 1.0, False),
            Goal(
                "Fréchet distance at the scale chosen, of none",
                lambda found: found[f"auto {chosen(found)}"]["frechet"] / found["none"]["frechet"],
                1.0,
                False,
            ),
        ),
    ),
    "rdm": System(
        {"retrieval": Trained("digits_rdm")},
        {
            "any entry": Drawn("retrieval", judge="retrieved", given={"queries": False}),
            "any of 0 to 4": Drawn("retrieval", judge="retrieved", given={"queries": False, "kept": 5}),
            "noise as neighbours": Drawn("retrieval", judge="retrieved", given={"queries": False, "noise": True}),
            "queries of a class": Drawn("retrieval", judge="retrieved"),
        },
        (
            Goal("class accuracy by the query of a class", lambda f: f["queries of a class"]["accuracy"], 0.9),
            Goal("samples that are 0 to 4, of a database of these", lambda f: f["any of 0 to 4"]["below 5"], 0.95),
            Goal(
                "Fréchet distance with real neighbours, of noise as neighbours",
                ratio("frechet", "any entry", "noise as neighbours"),
                0.8,
                False,
            ),
        ),
    ),
    "dod": System(
        {"stages": Trained("digits_dod")},
        {f"{n} stages": Drawn("stages", (f"sampler.stages={n}", "sampler.sampler.guidance=null")) for n in (1, 3, 2)},
        (
            Goal("Fréchet distance of 2 stages, of 1", ratio("frechet", "2 stages", "1 stages"), 1.0, False),
            Goal("class accuracy of 2 stages, of 1", ratio("accuracy", "2 stages", "1 stages"), 1.0),
        ),
    ),
    "nested": System(
        {"flow": FLOW, "levels": Trained("digits_nested")},
        {"flow": Drawn("flow", (EULER,)), "levels": Drawn("levels", ("sampler.guidance=null",))},
        (Goal("Fréchet distance of three levels, of one", ratio("frechet", "levels", "flow"), 1.0, False),),
    ),
    "umd": System(
        {
            "denoising": Trained("digits_umd", ("objective.hidden=0", "objective.clean=0")),
            "both": Trained("digits_umd"),
        },
        {name: Drawn(name) for name in ("denoising", "both")},
        (Goal("class accuracy of a model that also fills in", ratio("accuracy", "both", "denoising"), 0.97),),
    ),
    "cdcd": System(
        {"plain": Trained("digits_cdcd", ("objective.contrasts=[]",)), "contrast": Trained("digits_cdcd")},
        {name: Drawn(name, ("sampler.guidance=null",)) for name in ("plain", "contrast")},
        (
            Goal("class accuracy with the contrastive loss", ratio("accuracy", "contrast", "plain"), 1.0),
            Goal("Fréchet distance with the contrastive loss", ratio("frechet", "contrast", "plain"), 1.0, False),
        ),
    ),
    "ppap": System(
        {
            "denoiser": DENOISER,
            "teacher": Trained("ppap_expert", TEACHER, 200),
            "one": ALL_NOISE,
            # All together in as many steps as the one.
            **{
                name: Trained(
                    "ppap_expert",
                    (*EXPERT, f"objective.range=[{i / 5}, {(i + 1) / 5}]"),
                    500,
                    pretrained={"teacher": "teacher"},
                )
                for i, name in enumerate(EXPERTS)
            },
        },
        {
            "unguided": Drawn("denoiser", (*TOLD, f"sampler.guidance={NO_CLASS}")),
            "clean": Drawn(
                "denoiser",
                (*TOLD, f"networks.teacher={{{RESNET}, frozen: true}}", TOWARDS % "teacher"),
                networks={"teacher": "teacher"},
            ),
            "one": Drawn("denoiser", (*TOLD, *own("one"), TOWARDS % "one"), networks={"one": "one"}),
            "experts": Drawn(
                "denoiser",
                (*TOLD, *(text for name in EXPERTS for text in own(name)), TOWARDS % ", ".join(EXPERTS)),
                networks={name: name for name in EXPERTS},
            ),
        },
        (
            Goal("class accuracy by experts, of one of all noise", ratio("accuracy", "experts", "one"), 1.0),
            Goal(
                "class accuracy by experts, above a clean classifier's", difference("accuracy", "experts", "clean"), 0.1
            ),
        ),
    ),
    "sdg": System(
        {"denoiser": DENOISER, "teacher": Trained("ppap_expert", TEACHER, 200), "one": ALL_NOISE},
        {
            "unguided": Drawn("denoiser", (*SKETCH, LIKE % ""), "likened", {"score_guidance": 0.0}),
            "pixels": Drawn("denoiser", (*SKETCH, LIKE % ""), "likened"),
            # The features are of a network that has learned from noisy digits, as the paper's encoders.
            "features": Drawn(
                "denoiser", (*SKETCH, *own("one"), LIKE % ", network: one"), "likened", networks={"one": "one"}
            ),
        },
        (
            Goal("samples of the reference's class, by features", lambda f: f["features"]["accuracy"], 0.5),
            Goal("samples of the reference's class, by pixels", lambda f: f["pixels"]["accuracy"], 0.5),
        ),
    ),
    "sit": System(  # as many steps as make the evaluations that dopri5 takes of these samples, 26 and 46 on average
        {"plain": FLOW},
        {
            "dopri5, 1e-2": Drawn("plain", ("sampler={kind: dopri5, rtol: 1e-2, atol: 1e-2}",)),
            "euler, 26": Drawn("plain", ("sampler={kind: euler, steps: 26}",)),
            "heun, 13": Drawn("plain", ("sampler={kind: heun, steps: 13}",)),
            "dopri5, 1e-3": Drawn("plain", ("sampler={kind: dopri5, rtol: 1e-3, atol: 1e-3}",)),
            "euler, 46": Drawn("plain", ("sampler={kind: euler, steps: 46}",)),
            "heun, 23": Drawn("plain", ("sampler={kind: heun, steps: 23}",)),
        },
        tuple(
            Goal(f"Fréchet distance of {one} against {other}", ratio("frechet", one, other), 1.0, False)
            for one, other in (
                ("dopri5, 1e-2", "euler, 26"),
                ("dopri5, 1e-2", "heun, 13"),
                ("dopri5, 1e-3", "euler, 46"),
                ("dopri5, 1e-3", "heun, 23"),
            )
        ),
        "dopri5, 1e-2",
    ),
    "delta_fm": System(
        {"plain": FLOW, "contrast": Trained("digits_sit", ("objective.further=[{kind: contrast, weight: 0.05}]",))},
        {name: Drawn(name, (EULER,)) for name in ("plain", "contrast")},
        (
            Goal("Fréchet distance with the contrastive term", ratio("frechet", "contrast", "plain"), 1.0, False),
            Goal("class accuracy with the contrastive term", ratio("accuracy", "contrast", "plain"), 1.0),
        ),
    ),
    "score_sde": System(  # correctors on the VE SDE: by the authors' table 1, those on the VP SDE change nothing
        {"vp": Trained("score_sde", VP, 800, "vp-ddpmpp-likelihood"), "ve": SCORES},
        {
            "predictor, 100 steps": Drawn("ve", (CORRECTED % (100, "none"),), "alone"),
            "predictor, 200 steps": Drawn("ve", (CORRECTED % (200, "none"),), "alone"),
            "both, 100 steps": Drawn("ve", (CORRECTED % (100, "langevin"),), "alone"),
            "likelihood": Drawn("vp", ("sampler.likelihood={dequantise: false}",), "likelihood"),
        },
        (
            Goal(
                "Fréchet distance with correctors, of the predictor alone in as many evaluations",
                ratio("frechet", "both, 100 steps", "predictor, 200 steps"),
                1.0,
                False,
            ),
            Goal(
                "bits per dimension of held-out digits, less those by a histogram per pixel",
                lambda f: f["likelihood"]["bits"] - f["likelihood"]["bits of histograms"],
                -0.3,
                False,
            ),
        ),
    ),
    "delta_fm_guided": System(
        {"contrast": Trained("digits_sit", MEAN)},
        {
            "unguided": Drawn("contrast", (EULER,)),
            "guided": Drawn("contrast", (GUIDED % "",)),
            "less interference": Drawn("contrast", (GUIDED % LESS,)),
        },
        (
            Goal(
                "Fréchet distance without the interference", ratio("frechet", "less interference", "guided"), 1.0, False
            ),
        ),
    ),
    "cad": System(
        {
            "labels alone": Trained("cad", (*COHERENT, "conditioning.coherence=null"), 4000),
            "coherence": Trained("cad", COHERENT, 4000),
        },
        {
            "labels alone": Drawn("labels alone", judge="captioned"),
            "coherence 0": Drawn("coherence", judge="captioned", given={"coherence": 0.0}),
            "coherence 1": Drawn("coherence", judge="captioned", given={"coherence": 1.0}),
            "guided": Drawn(
                "coherence",
                ("sampler.guidance={scale: 2, without: [coherence]}",),
                "captioned",
                {"coherence": 1.0},
            ),
        },
        (
            Goal(
                "class accuracy at coherence 1, above that of training on labels alone",
                difference("accuracy", "coherence 1", "labels alone"),
                0.1,
            ),
        ),
    ),
    "tread_guided": System(
        {"routes": Trained("digits_sit", ROUTES)},
        {
            "unguided": Drawn("routes", (EULER,)),
            "by the class": Drawn("routes", (GUIDED_BY % "scale: 1.5",)),
            "by tokens": Drawn("routes", (GUIDED_BY % "kind: skipped_tokens, scale: 1.5, share: 0.7",)),
            "by fewer tokens": Drawn(
                "routes", (GUIDED_BY % "kind: skipped_tokens, scale: 1.5, share: 0.7, better_share: 0.3",)
            ),
        },
        (Goal("Fréchet distance guided by tokens, of none", ratio("frechet", "by tokens", "unguided"), 1.0, False),),
    ),
    "tread": System(
        {
            "plain": FLOW,
            # A step with these routes takes three quarters of the work: two of four blocks see half of the tokens.
            "plain, three quarters": Trained("digits_sit", steps=1500),
            "routes": Trained("digits_sit", ROUTES),
            "deep": Trained("digits_sit", DEEP, 600),
            "deep, 0.71 of the steps": Trained("digits_sit", DEEP, 426),
            "deep, routes": Trained("digits_sit", (*DEEP, *LONG_ROUTE), 600),
        },
        {
            name: Drawn(name, (EULER,))
            for name in ("plain", "plain, three quarters", "deep", "deep, 0.71 of the steps", "deep, routes", "routes")
        },
        (
            Goal("Fréchet distance with routes, of as many steps", ratio("frechet", "routes", "plain"), 1.0, False),
            Goal(
                "Fréchet distance with routes, of as much work",
                ratio("frechet", "routes", "plain, three quarters"),
                1.0,
                False,
            ),
            Goal("the same of 12 blocks, of as many steps", ratio("frechet", "deep, routes", "deep"), 1.0, False),
            Goal(
                "the same of 12 blocks, of as much work",
                ratio("frechet", "deep, routes", "deep, 0.71 of the steps"),
                1.0,
                False,
            ),
        ),
    ),
    "interpolant_sr": System(
        {
            "uncoupled": Trained("digits_sit", SUPER, 1000),
            "coupled": Trained("digits_sit", (*SUPER, UPSAMPLED), 1000),
            "U-Net, coupled": Trained("interpolant_sr", ATTENTIVE, 1000),
        },
        {name: Drawn(name, judge="enlarged") for name in ("uncoupled", "coupled", "U-Net, coupled")},
        (
            Goal("Fréchet distance of coupled super-resolution", ratio("frechet", "coupled", "uncoupled"), 1.0, False),
            Goal("PSNR, coupled less uncoupled", difference("psnr", "coupled", "uncoupled"), 0.0),
            Goal("class accuracy of the authors' U-Net", lambda found: found["U-Net, coupled"]["accuracy"], 0.9),
        ),
    ),
    "interpolant_inpaint": System(
        {
            "uncoupled": Trained("digits_sit", HOLES, 1000),
            "coupled": Trained("digits_sit", (*HOLES, HOLE), 1000),
        },
        {name: Drawn(name, judge="filled") for name in ("uncoupled", "coupled")},
        (
            Goal("Fréchet distance of coupled inpainting", ratio("frechet", "coupled", "uncoupled"), 1.0, False),
            Goal("PSNR in the holes, coupled less uncoupled", difference("psnr", "coupled", "uncoupled"), 0.0),
        ),
    ),
    "pfgmpp": System(
        {"D = inf": Trained("digits_edm2"), "D = 64": Trained("digits_edm2", (POISSON,))},
        {
            f"{name}, {steps} steps": Drawn(name, (f"sampler.steps={steps}", "sampler.guidance=null"))
            for name in ("D = inf", "D = 64")
            for steps in (18, 6, 4)
        },
        (
            Goal("Fréchet distance in 18 steps", ratio("frechet", "D = 64, 18 steps", "D = inf, 18 steps"), 1.0, False),
            Goal("Fréchet distance in 4 steps", ratio("frechet", "D = 64, 4 steps", "D = inf, 4 steps"), 1.0, False),
        ),
    ),
    "improved_mean_flow": System(
        {"flow": FLOW, "average": Trained("digits_improved_mean_flow", ("train.steps=1000",))},
        {
            "flow": Drawn("flow"),
            "flow in 1": Drawn("flow", ("sampler={kind: euler, steps: 1, guidance: {scale: 1.5}}",)),
            "average, scale 1": Drawn("average", given={"guidance": 1.0}),
            "average, scale 3": Drawn("average", given={"guidance": 3.0}),
            "average": Drawn("average"),
        },
        (Goal("class accuracy in 1 evaluation, of the flow's in 100", ratio("accuracy", "average", "flow"), 0.97),),
    ),
    "pixelflow": System(
        {"plain": FLOW, "cascade": Trained("digits_sit", CASCADE)},
        {"plain": Drawn("plain", (EULER,)), "cascade": Drawn("cascade")},
        (
            Goal(
                "class accuracy of 10 + 10 steps, of 20 in one resolution", ratio("accuracy", "cascade", "plain"), 1.0
            ),
            Goal("processor's time of these samples", ratio("seconds", "cascade", "plain"), 0.8, False),
        ),
    ),
    "score_sde_guided": System(
        {
            "scores": SCORES,
            "classifier": Trained("score_sde_classifier", (*NOISY, *under("backbone", *WIDE)), 600),
        },
        {
            f"guided at {scale}": Drawn(
                "scores",
                networks={"classifier": "classifier"},
                spec=Trained(
                    "score_sde_guided",
                    (
                        *(*NOISY_200, *under("networks.main", *SIZED)),
                        *under("networks.classifier", *WIDE, "frequencies=32"),
                        f"sampler.guidance.scale={scale}",
                    ),
                ),
            )
            for scale in (1.0, 4.0)
        },
        (Goal("class accuracy, guided", lambda found: found["guided at 4.0"]["accuracy"], 0.9),),
    ),
    **CAPTION_SYSTEMS,
    **REPRESENTATION_SYSTEMS,
    **TOKEN_SYSTEMS,
}
"""By the names of docs/systems.yaml."""
