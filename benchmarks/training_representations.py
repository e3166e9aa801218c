"""What `training_digits.py` trains of RCG: generators given a representation, and a model that draws representations.

A representation is the first eight principal components of a digit; no class is given. The model of
representations and the generators share no weights, so each is trained alone, as in the paper, and one model draws for
all generators. Its length of training was chosen by its loss on representations of held-out digits.
"""

from __future__ import annotations

from training_parts import DIGITS, SETTINGS, UNET, VECTORS, Drawn, Goal, System, Trained, ratio, under

TOLD = "data={kind: digits, fields: {representation: {shape: [8]}}}"
SIZES = ("width=128", "depth=3", "time_width=64")
RDM = Trained(
    "rcg_representation",
    (
        f"data={{kind: npz, path: {VECTORS}, fields: {{x: {{shape: [8]}}}}}}",
        *(*SETTINGS, "train.batch_size=128", "train.ema=0.995"),
        *("train.schedule={kind: cosine, warmup: 50}", "weights={}"),
        *under("backbone", *SIZES),
        *("sampler.steps=50", "objective.process={kind: discrete, schedule: cosine}"),
    ),
    12000,
)

# The digit DiT, told by its norms.
DIT = ("conditioning.class=null", "sampler={kind: ddim, steps: 50, spacing: trailing}")
DIT_TOLD = (*DIT, TOLD, "networks.main.conditions=[representation]")
VECTOR = "conditioning.representation={kind: representation, dropout: 0.1%s}"
PRIOR = (
    ", prior: {network: rdm, objective: {kind: diffusion, process: {kind: discrete, schedule: cosine}, predicts: x0}, "
    "sampler: {kind: ddim, steps: 50, eta: 1.0}}"
)
DIT_DRAWN = (*DIT_TOLD, "networks.rdm.kind=vector_mlp", *under("networks.rdm", *SIZES), VECTOR % PRIOR)

# U-Nets, whose specs have a model of representations.
UNETS = (*SETTINGS, "train.optimizers={}", "sampler={kind: ddim, steps: 50, spacing: trailing, clip: 1.0}")
UNETS += ("objective.process={kind: discrete, schedule: cosine}", *under("networks.main", *UNET))
UNETS_DRAWN = (TOLD, *under("networks.rdm", *SIZES))
UNETS_DRAWN += under("conditioning.representation.prior", "sampler.steps=50", "objective.process.schedule=cosine")
UNETS_TOLD = (TOLD, "networks.rdm=null", "conditioning.representation.prior=null", "weights={}")
UNETS_ALONE = (DIGITS, "networks.rdm=null", "conditioning.representation=null", "weights={}")
PIXELS = ("objective.variance=fixed_large", "networks.main.block.head_channels=8")
LATENTS = under("networks.main", "width=32", "block.head_channels=16", "attention=[0, 1]")


def generator(spec: str, alone: tuple[str, ...], told: tuple[str, ...], drawn: tuple[str, ...]) -> System:
    """A generator that is given nothing, representations of held-out digits, and drawn ones; with overrides of each."""
    return System(
        {"alone": Trained(spec, alone, 1000), "told": Trained(spec, told, 1000), "rdm": RDM},
        {
            "representations": Drawn("rdm", judge="vectors", given={"width": 8}),
            "alone": Drawn("alone", judge="alone"),
            "of held-out digits": Drawn("told", judge="represented", given={"width": 8, "count": 899}),
            "of training digits": Drawn("told", judge="represented", given={"width": 8, "count": 898, "half": 0}),
            "drawn": Drawn("told", judge="alone", networks={"rdm": "rdm"}, spec=Trained(spec, drawn)),
        },
        (Goal("Fréchet distance with drawn representations", ratio("frechet", "drawn", "alone"), 1.0, False),),
    )


def unet(spec: str, sizes: tuple[str, ...], alone: tuple[str, ...] = ()) -> System:
    """A U-Net of the spec."""
    own = (*UNETS, *sizes)
    return generator(spec, (*own, *UNETS_ALONE, *alone), (*own, *UNETS_TOLD), (*own, *UNETS_DRAWN))


REPRESENTATION_SYSTEMS: dict[str, System] = {
    "rcg": generator("digits_dit", DIT, (*DIT_TOLD, VECTOR % ""), DIT_DRAWN),
    "rcg_adm": unet("rcg_adm", PIXELS),
    "rcg_ldm": unet("rcg_ldm", LATENTS, ("networks.main.block.transformer=null",)),
}
