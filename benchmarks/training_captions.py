"""Systems whose condition is the digit's class as a caption of one word, at sizes that learn; see `training_parts.py`.

All settings were chosen before anything was trained with them.
"""

from __future__ import annotations

from training_parts import LETTERS, SETTINGS, SPOKEN_DIGITS, WRITTEN_DIGITS, Drawn, Goal, System, Trained, under

WORDS = "{text: {shape: [1, 10]}, text_mask: {shape: [1], dtype: bool}}"
TOLD_DIGITS = (*SETTINGS, f"data={{kind: npz, path: {SPOKEN_DIGITS}, shape: [1, 8, 8], fields: {WORDS}}}")
LATENTS = ("data.first_stage=null", "conditioning.caption=null", "train.precision=fp32")
DIFFUSION = "kind: diffusion, process: {kind: discrete, schedule: cosine}, predicts: velocity"
DDIM = "sampler={kind: ddim, steps: 25, spacing: trailing, guidance: {scale: 1.5}}"
PLAIN = (f"objective={{{DIFFUSION}}}", DDIM)

JEPA = (*TOLD_DIGITS, *LATENTS, "conditioning.text={kind: features, dropout: 0.1}", "train.optimizers={}")
JEPA += under("networks.main", "width=64", "depth=2", "patch=2", "buffer=4", "positions.pairs=2", "positions.side=4")
JEPA += under("networks.main.block", "mixer.heads=4", "mixer.dropout=0", "feed_forward.dropout=0")
JEPA += ("networks.head.width=64", "networks.head.depth=3", "networks.target.decay=0.99")
JEPA += ("sampler.steps=8", "sampler.diffusion.steps=20", "sampler.guidance.scale=2.0")

PIXELFLOW = under("backbone", "width=64", "depth=4", "patch=1", "stages=2", "block.mixer.heads=4")
PIXELFLOW += ("objective.stages=2", "sampler.steps=10", "sampler.guidance.scale=2.0")

LEARNED = "null_embedding: sequence"
DIMR = (*TOLD_DIGITS, *LATENTS, f"conditioning.text={{kind: features, dropout: 0.1, projection: none, {LEARNED}}}")
DIMR += (
    f"objective={{{DIFFUSION}, further: [{{kind: multi_scale, scales: [0.25]}}]}}",
    "objective.process.time_offset=1",
)
DIMR += (DDIM, "backbone.branches=[{width: 64, half: 1, patch: 2, block: coarse}, {width: 32, half: 1}]")
DIMR += ("backbone.coarse.mixer.heads=4",)

HIMAR = (*TOLD_DIGITS, *LATENTS, f"conditioning.text={{kind: features, dropout: 0.1, padding: zeros, {LEARNED}}}")
HIMAR += under("networks.main", "width=64", "depth=2", "patch=2", "side=2", "buffer=4", "block.mixer.heads=4")
HIMAR += under("networks.main.block", "mixer.dropout=0", "mixer.weight_dropout=0")
HIMAR += under("networks.main.block.feed_forward", "dropout=0", "hidden_dropout=0")
HIMAR += (*under("networks.pivot_head", "width=64", "depth=3"), *under("networks.head", "width=64", "depth=2"))
HIMAR += ("networks.head.block.mixer.heads=4", "objective.pivots=null", "objective.pivot_warmup=0")
HIMAR += ("objective.process.schedule=linear", "sampler.steps=4", "train.optimizers={}")
HIMAR += under("sampler.pivots", "steps=4", "diffusion.respacing='25'", "guidance.scale=2.0")
HIMAR += under("sampler", "diffusion.respacing='25'", "diffusion.variance=fixed_small", "guidance.scale=2.0")

TEXT = "conditioning.text={kind: features, dropout: 0.1}"
SMALL = ("width=64", "depth=4", "patch=2")
LINEAR = "block.mixer={kind: linear_attention, heads: 2, kernel: 5}"
PIXART = (*TOLD_DIGITS, *LATENTS, *PLAIN, TEXT, *under("backbone", *SMALL, "block.mixer.heads=4"))
# It keeps what PixArt has learned, but for its attention, and is not taught further.
LIT = (*TOLD_DIGITS, *LATENTS, *PLAIN, TEXT, "networks.teacher=null", *under("networks.main", *SMALL, LINEAR))
# The letters of captions, which an encoder as T5's reads that is trained with the network.
TEXTS = f"{{shape: [10], classes: {len(LETTERS)}, medium: text, alphabet: '{LETTERS}', end: 1}}"
TEXTS = f"{{caption: {TEXTS}, caption_mask: {{shape: [10], dtype: bool}}}}"
WRITTEN = (*SETTINGS, f"data={{kind: npz, path: {WRITTEN_DIGITS}, shape: [1, 8, 8], fields: {TEXTS}}}")
WRITTEN += ("data.first_stage=null", "train.precision=fp32", *PLAIN, *under("backbone", *SMALL, "block.mixer.heads=4"))
WRITTEN += ("conditioning.caption.cached=false",)
WRITTEN += under("networks.text", "pretrained=null", "width=32", "depth=2", "embedding=normal")
WRITTEN += under("networks.text.block", "feed_forward.hidden=64", "mixer.heads=4")
WRITTEN += under("networks.text.block.mixer", "head_width=8")


def captioned(trained: dict[str, Trained], judge: str = "captioned") -> System:
    """A system whose samples are to be of the digits that their captions name."""
    goal = Goal("class accuracy by captions", lambda found: found["captions"]["accuracy"], 0.9)
    return System(trained, {"captions": Drawn("captions", judge=judge)}, (goal,))


CAPTION_SYSTEMS: dict[str, System] = {
    "d_jepa_t2i": captioned({"captions": Trained("d_jepa_t2i", JEPA, 4000)}),
    "pixelflow_t2i": captioned({"captions": Trained("pixelflow_t2i", (*TOLD_DIGITS, *PIXELFLOW), 2000)}),
    "dimr_t2i": captioned({"captions": Trained("dimr", DIMR, 1200, "XL/2R-256-text")}),
    "himar_t2i": captioned({"captions": Trained("himar", HIMAR, 2000, "S-t2i")}),
    "pixart_t5": captioned({"captions": Trained("pixart", WRITTEN, 1200, "XL/2-512-t5")}, "written"),
    "lit_t2i": captioned(
        {
            "softmax": Trained("pixart", PIXART, 1200),
            "captions": Trained("lit_t2i", LIT, 300, pretrained={"main": "softmax"}),
        }
    ),
}
