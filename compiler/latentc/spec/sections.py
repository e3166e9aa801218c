"""The sections of a spec that are not components: train, optimize, target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from latentc.components import Closed, Component, Index, OneOf
from latentc.components.optimizer import default_optimizer
from latentc.engines import DEFAULT, ENGINES, PRECISIONS, SCHEMES

if TYPE_CHECKING:
    from latentc_runtime.manifest import EngineName

    PrecisionName = Literal["fp32", "fp16", "bf16"]
    SchemeName = Literal[
        "int8", "int8_dynamic", "int8_weights", "int4_weights", "fp8", "nvfp4", "nvfp4_weights", "mxfp4_weights"
    ]
else:  # schemes that some engine supports, so that adding an engine is adding a file
    EngineName, PrecisionName, SchemeName = (Literal[tuple(names)] for names in (ENGINES, PRECISIONS, SCHEMES))

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Unit = Annotated[float, Field(ge=0, lt=1)]
Limit = Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?x?$")]


class Checkpoint(Closed):
    """The weights that a network has, unless a command is given others."""

    weights: str = Field(description="a file or folder, relative to this file or to the current folder")
    names: str | None = Field(None, description="name map of this spec for the file; null: latentc's own names")
    key: str | None = Field(None, description="state dict to use from a checkpoint (`ema`); null: the one that fits")


class Official(Closed):
    """A checkpoint that the authors of the system publish, for `--weights official:NAME`."""

    weights: Annotated[str, Field(pattern=r"^(https?://|hub:)\S+$")] = Field(
        description="its address: https://… or hub:ORG/NAME/FILE"
    )
    variant: str | None = Field(None, description="variant of this spec that it fits; null: the spec without one")
    network: Identifier | None = Field(None, description="network whose weights it holds; null: all of the spec's")
    names: str | None = Field(None, description="name map of this spec for the file; null: latentc's own names")
    key: str | None = Field(None, description="state dict to use from it (`ema`); null: the one that fits")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = Field(
        None, description="its sha256, or the first digits of it, where its authors or its host publish it"
    )
    megabytes: float | None = Field(None, gt=0, description="approximate size of the file, in 10^6 bytes")
    licence: str = Field(description="licence of the weights")
    source: str = Field(description="the page on which its authors name it")
    by_hand: str | None = Field(
        None, description="why only a person can download it from `weights`; null: latentc downloads it"
    )


class Schedule(Closed):
    """How the learning rate changes: a linear warm-up, then its course to the last step."""

    kind: Literal["constant", "cosine", "linear", "exponential", "inverse_sqrt"] = Field(
        "constant",
        description="learning rate after warm-up; exponential: decays by a constant factor per step, down to "
        "`final`; inverse_sqrt: 1 / sqrt(step / decay_from) from that step on",
    )
    warmup: int = Field(
        0, ge=0, le=1_000_000_000, description="optimiser steps over which the learning rate rises from 0"
    )
    hold: float = Field(
        0.0, ge=0, lt=1, description="fraction of all steps at the full learning rate after warm-up, before the decay"
    )
    final: float = Field(
        0.0, ge=0, le=1, description="final fraction of the learning rate, except for constant and inverse_sqrt"
    )
    decay_from: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="inverse_sqrt: optimiser step from which the rate decays (EDM2: t_ref)",
    )

    @model_validator(mode="after")
    def _can_be_run(self) -> Self:
        if (self.kind == "inverse_sqrt") != (self.decay_from is not None):
            raise ValueError("`decay_from` belongs to `kind: inverse_sqrt`, which requires it")
        if self.kind == "exponential" and not self.final:
            raise ValueError("a constant factor per step never reaches 0: `kind: exponential` needs a `final` above 0")
        if self.hold and self.kind in ("constant", "inverse_sqrt"):
            raise ValueError(f"`hold` delays a fall to `final`, which `kind: {self.kind}` does not have")
        return self


class WarmEma(Closed):
    """An average of the weights whose decay is limited at first, so that it forgets the initial weights."""

    decay: Unit = Field(0.9999, description="decay per step of the averaged weights")
    warmup: bool = Field(True, description="limit the decay of step n, from 0, to (1 + n) / (10 + n)")


class PowerEma(Closed):
    """Averages of the weights over the steps t with power-function profiles, t^g, of several relative widths.

    Averages of other widths can be reconstructed from the stored ones after training (post-hoc EMA, Karras et al. 2024,
    arXiv:2312.02696, section 3).
    """

    sigma_rel: tuple[Annotated[float, Field(ge=0.001, le=0.25)], ...] = Field(
        (0.05, 0.1),
        min_length=1,
        max_length=8,
        description="widths of the stored profiles: standard deviation relative to the number of steps",
    )
    snapshot_every: int = Field(4096, gt=0, le=1_000_000_000, description="steps between stored averages")
    target: float | None = Field(
        None,
        ge=0.001,
        le=0.25,
        description="width of the average in `weights.safetensors`, reconstructed at the end; null: the first of "
        "`sigma_rel`, as stored",
    )
    half: bool = Field(False, description="store averages in float16")

    @model_validator(mode="after")
    def _widths_differ(self) -> Self:
        if len({f"{width:g}" for width in self.sigma_rel}) < len(self.sigma_rel):
            raise ValueError("the widths in `sigma_rel` must differ from each other")
        return self


def _average(value: Any) -> str:
    """Which of the alternatives of `ema` reads a value."""
    if isinstance(value, PowerEma) or (isinstance(value, Mapping) and not {*value}.isdisjoint(PowerEma.model_fields)):
        return "power"
    return "none" if value is None else "warm" if isinstance(value, Mapping | WarmEma) else "constant"


Ema = Annotated[
    Annotated[Unit, Tag("constant")]
    | Annotated[WarmEma, Tag("warm")]
    | Annotated[PowerEma, Tag("power")]
    | Annotated[None, Tag("none")],
    Discriminator(_average),
]


class Train(Closed):
    """How the networks are trained."""

    steps: int = Field(400_000, gt=0, le=1_000_000_000, description="optimiser steps")
    batch_size: int = Field(256, gt=0, le=1_048_576, description="samples per optimiser step, over all processes")
    accumulate: int = Field(1, gt=0, le=65_536, description="forward passes per optimiser step; must divide the batch")
    optimizer: Annotated[Component, OneOf("optimizers")] = Field(
        default_factory=default_optimizer, description="the optimiser"
    )
    optimizers: dict[Identifier, Annotated[Component, OneOf("optimizers")]] = Field(
        default_factory=dict, description="{network: optimiser}, for networks with an optimiser of their own"
    )
    schedule: Schedule = Field(Schedule(), description="learning rate schedule")
    ema: Ema = Field(
        WarmEma(),
        description="averaged weights: a constant decay per step, one with a warm-up, or averages to reconstruct from; "
        "null: none",
    )
    clip: float | None = Field(None, gt=0, description="maximum gradient norm; null: no limit")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="precision of the forward pass (autocast)")
    loss_scaling: float = Field(
        1.0,
        gt=0,
        le=1 << 24,
        description="loss scale in `fp16`; gradients are divided by it, and non-finite ones set to 0 (EDM)",
    )
    compile: bool = Field(False, description="compile the network with torch.compile")
    recompute: bool = Field(
        False, description="keep only the inputs of blocks for the backward pass and recompute their forward pass"
    )
    parallel: Literal["none", "ddp", "fsdp"] = Field("ddp", description="strategy for several processes")
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of the initial weights, the noise and the data order")
    checkpoint_every: int = Field(10_000, gt=0, le=1_000_000_000, description="steps between checkpoints")
    keep: int = Field(3, gt=0, le=65_536, description="number of newest checkpoints to keep")
    log_every: int = Field(100, gt=0, le=1_000_000_000, description="steps between log lines")
    log: tuple[Literal["tensorboard", "wandb", "mlflow", "csv"], ...] = Field(
        ("tensorboard", "csv"),
        description="where curves and sample grids are logged; `latentc runs` reads `csv` or `tensorboard`",
    )
    sample_every: int | None = Field(
        10_000,
        gt=0,
        le=1_000_000_000,
        description="steps between sample grids, the last one at the end of training; null: none",
    )
    evaluate_every: int | None = Field(
        None,
        gt=0,
        le=1_000_000_000,
        description="steps between sample metrics (Fréchet distance, precision, recall); null: none",
    )
    evaluate_samples: int = Field(512, ge=8, le=1_000_000, description="number of samples for these metrics")
    evaluate_features: str | None = Field(
        None,
        description="TorchScript feature extractor for images u8[N, 3, H, W]; null: principal components of the data",
    )
    workers: int = Field(2, ge=0, le=1_024, description="data loader processes; 0 loads in the training process")

    @model_validator(mode="after")
    def _logs_once(self) -> Self:
        if len({*self.log}) < len(self.log):
            raise ValueError("`log` names a log twice")
        return self

    @model_validator(mode="after")
    def _scales_half_precision(self) -> Self:
        if self.loss_scaling != 1 and self.precision != "fp16":
            raise ValueError("`loss_scaling` is for `precision: fp16`")
        return self

    @property
    def half(self) -> bool:
        """True if the forward pass computes in 16 bits."""
        return self.precision != "fp32"

    @property
    def averages(self) -> int:
        """How many averages of the weights are kept."""
        return len(self.ema.sigma_rel) if isinstance(self.ema, PowerEma) else int(self.ema is not None)


class Calibration(Closed):
    """The trajectories of the unquantised sampler along which layer inputs are measured."""

    samples: int = Field(8, gt=0, le=4096, description="number of samples to draw")
    steps: int = Field(8, gt=0, le=100_000, description="calls of each network method, evenly spaced")
    classes: int = Field(8, gt=0, le=65_536, description="number of different classes, evenly spaced")
    seed: int = Field(0, ge=0, lt=1 << 63, description="seed of the first sample; counted up for the next")
    range: Literal["max", "percentile", "mse"] = Field(
        "mse",
        description="range covered by a scale: the largest value, 99.99 % of the values, or the cut-off with the "
        "least squared error",
    )


class Budget(Closed):
    """The allowed error of quantisation. Layers stay unquantised to keep it, or compile fails."""

    psnr: float = Field(30.0, gt=0, description="minimum PSNR in dB of final samples against fp32, with the same noise")
    weights: str | None = Field(
        None,
        description="weights file of `main` whose samples in fp32 PSNR compares with, such as the teacher of weights "
        "that were trained for quantisation; null: the compiled weights",
    )
    perplexity: float = Field(
        0.01, gt=0, description="maximum relative increase in perplexity, for networks that score tokens"
    )
    metrics: dict[Identifier, float | Limit] = Field(
        default_factory=dict,
        max_length=64,
        description="limits on figures of `latentc evaluate`: {fd: 1.1x, accuracy: 0.98x}; x: relative to the "
        "unquantised engine",
    )
    samples: int = Field(512, ge=2, le=1_000_000, description="number of samples for these figures")
    features: tuple[str, ...] = Field(
        (), max_length=8, description="feature extractors for these figures, as for `--features`"
    )
    reference: str | None = Field(None, description="reference for these figures; null: `data`")


class Quantize(Closed):
    """Linear layers in 8 or 4 bits."""

    scheme: SchemeName = Field(
        description="static or dynamic int8, int8 or int4 weights only, fp8, or 4-bit floats in blocks"
    )
    smooth: float | None = Field(
        None, ge=0, le=1, description="SmoothQuant's alpha, the share of outliers moved into the weights; null: none"
    )
    exclude: tuple[str, ...] = Field((), description="layers to leave unquantised: paths, where * matches any text")
    calibration: Calibration = Field(Calibration(), description="how scales are measured")
    budget: Budget = Field(Budget(), description="quality limits")
    min_speedup: float = Field(1.0, ge=0, description="minimum speedup over the unquantised engine")


class Stitch(Closed):
    """Trajectory stitching: a small network takes the first steps, `main` the others (T-Stitch, Pan et al. 2024)."""

    network: str = Field(description="one of `networks`, trained with the same objective as main")
    until: float = Field(
        gt=0, lt=1, description="main takes over at this fraction of the way from noise (0) to data (1)"
    )


class Cache(Closed):
    """Block caching: the residual of a range of main's blocks is computed at some steps and reused at the others."""

    blocks: tuple[Index, Index] | None = Field(
        None,
        description="[first, last + 1] of the cached blocks, counted from 0; null: none, but `parts` of the network",
    )
    among: str | None = Field(None, description="name of the list of blocks, if the network has several")
    parts: tuple[str, ...] = Field(
        (),
        description="calls in a block, such as attn and mlp, to cache separately; none: all blocks as one. Without "
        "`blocks`: calls in the network, such as an encoder branch",
    )
    every: int = Field(
        2, gt=0, le=100_000, description="compute at every n-th step and at the first of each loop; 1: no caching"
    )
    steps: tuple[Index, ...] | None = Field(
        None, max_length=100_000, description="the steps that compute, counted from 0, instead of `every`"
    )


class Optimize(Closed):
    """Optimisations beyond exact rewriting."""

    guidance: Literal["batched", "sequential"] = Field(
        "batched", description="run both guidance branches as one call of twice the batch, or one after the other"
    )
    experts: Literal["auto", "dense", "sparse"] = Field(
        "auto",
        description="run every expert on every token, or (`onnxruntime` in fp32) only on those routed to it; both "
        "exact",
    )
    kv_tile: int | None = Field(
        None,
        gt=0,
        le=1_048_576,
        description="tokens per write to the key-value caches, if the loop is inside the engine; null: about the "
        "square root of the number of tokens on `openvino`, otherwise 1",
    )
    quantize: Quantize | None = Field(None, description="quantisation of linear layers; null: none")
    cache: Cache | None = Field(None, description="reuse of the blocks' residual across steps; null: none")
    stitch: Stitch | None = Field(None, description="a smaller network for the first steps; null: none")


class Profile(Closed):
    """The batch sizes that a TensorRT plan is built for, in samples; guidance doubles them."""

    min: int = Field(1, gt=0, le=65_536, description="smallest number of samples per run")
    opt: int = Field(8, gt=0, le=65_536, description="number of samples to optimise for")
    max: int = Field(64, gt=0, le=65_536, description="largest number of samples per run")


Capability = Annotated[str, Field(pattern=r"^sm\d{2,3}$")]


class Target(Closed):
    """The engine a spec is compiled for."""

    engine: EngineName = Field(DEFAULT, description="engine that runs the bundle")
    form: Literal["auto", "unroll", "loop", "host"] = Field("auto", description="form of the sampling loop")
    opset: int = Field(23, ge=20, le=25, description="ONNX operator set")
    max_batch: int = Field(64, gt=0, le=65_536, description="largest batch of one engine call")
    precision: PrecisionName = Field("fp32", description="numeric precision of the engine")
    plans: bool = Field(True, description="build TensorRT plans; false: the bundle contains only ONNX files")
    capabilities: tuple[Capability, ...] = Field(
        (), description="GPUs to build TensorRT plans for, such as sm89; none: the GPU of this machine"
    )
    profiles: tuple[Profile, ...] = Field(
        (), description="batch sizes to build TensorRT plans for; none: one profile up to `max_batch`"
    )
    version_compatible: bool = Field(False, description="`tensorrt`: build plans that also run on later versions")
    hardware_compatible: bool = Field(False, description="`tensorrt`: build plans that run on all GPUs from Ampere on")
    strip_weights: bool = Field(
        False, description="`tensorrt`: build plans without weights, which are filled in from the bundle when opened"
    )
