"""Plans of training: against hand calculations, and against the memory of emitted projects on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from measured import measure
from tiny_systems import SYSTEMS

from latentc import api
from latentc.cli import run
from latentc.diagnostics import DiagnosticError
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.scale import ACCELERATORS, Plan, parse_request, plan
from latentc.scale.counts import count
from latentc.scale.plan import REACHED, READING, USABLE
from latentc.spec import load_spec

SMALL = ("backbone.width=64", "backbone.depth=4", "backbone.block.mixer.heads=4")
XL = 674_834_720  # weights of DiT-XL/2


@pytest.fixture(scope="module")
def xl() -> Plan:
    """DiT-XL/2 at ImageNet 256 on 256 H100s."""
    return api.plan("dit", "gpus=256,h100,utilisation=0.4", overrides=["train.precision=bf16"])


# ---- by hand


def test_memory_by_hand(xl: Plan) -> None:
    ddp, fsdp = xl.layouts["ddp"].memory, xl.layouts["fsdp"].memory
    assert ddp["weights"] == ddp["gradients"] == ddp["averages"] == ddp["buckets"] == 4 * XL
    assert ddp["optimizer"] == 8 * XL
    assert all(fsdp[part] == ddp[part] / 256 for part in ("weights", "gradients", "averages", "optimizer"))
    assert 2 * 0.99 * XL < ddp["copies"] == fsdp["copies"] < 2 * XL
    # A block: attention 4 w^2, feed-forward 8 w^2, adaLN 6 w^2, and its vectors (4 w, 5 w, 6 w); w = 1152.
    width = 1152
    block = 18 * width**2 + 15 * width
    assert xl.counts.weights.block == block
    assert xl.counts.weights.root == XL - 28 * block
    assert fsdp["gathered"] == 4 * (XL - 28 * block + 3 * block)


def test_traffic_and_time_by_hand(xl: Plan) -> None:
    ddp, fsdp = xl.layouts["ddp"], xl.layouts["fsdp"]
    assert ddp.traffic == pytest.approx(8 * XL * 255 / 256)
    assert fsdp.traffic == pytest.approx(12 * XL * 255 / 256)
    lowered = lower(load_spec("dit"))
    forward = flops(lowered.module, "main.forward")
    assert 118.6e9 < forward / 2 < 118.8e9  # multiply-adds: 118.6 G in the authors' table, and elementwise ops
    assert xl.counts.flops == pytest.approx(3 * forward, rel=2e-3)
    assert xl.counts.again_flops == pytest.approx(forward, rel=2e-3)
    assert ddp.compute_time == pytest.approx(xl.counts.flops / (0.4 * 989e12))  # one sample each
    # Eight network cards of 50 GB/s per node give 400 GB/s to the ring, less than a GPU's 450 GB/s of NVLink.
    assert ddp.network_time == pytest.approx(ddp.traffic / (REACHED * 400e9))
    assert ddp.step_time == max(ddp.compute_time, ddp.network_time) + ddp.optimizer_time
    assert ddp.images_per_second == pytest.approx(256 / ddp.step_time)
    assert ddp.hours == pytest.approx(400_000 * ddp.step_time / 3600)
    assert ddp.gpu_hours == pytest.approx(256 * ddp.hours)
    assert (ddp.limit, fsdp.limit) == ("network", "network")


def test_one_node_uses_its_links(xl: Plan) -> None:
    node = api.plan("dit", "gpus=8,h100", overrides=["train.precision=bf16"]).layouts["ddp"]
    assert node.network_time == pytest.approx(8 * XL * 7 / 8 / (REACHED * 450e9))
    assert node.limit == "compute"
    alone = api.plan("dit", "gpus=1,h100", overrides=["train.precision=bf16"]).layouts["none"]
    assert (alone.traffic, alone.network_time) == (0, 0)
    assert "buckets" not in alone.memory


def test_an_update_now_and_then_counts_as_often() -> None:
    """Of LARP's tokenizer, whose discriminator learns in every so many steps."""
    tiny, found = SYSTEMS["larp_tokenizer"], []
    for every in (1, 2, 4):
        overrides = [*tiny.sizes, "networks.perceptual=null", f"objective.every={every}"]
        spec = load_spec(tiny.spec, "adversarial", overrides)
        found.append(count(spec, lower(spec)).flops)
    assert (found[0] - found[2]) / (found[0] - found[1]) == pytest.approx(1.5, rel=1e-6)


def test_the_largest_batch_fills_the_memory(xl: Plan) -> None:
    for layout in xl.layouts.values():
        room = USABLE * 80e9 - layout.fixed
        most = layout.largest["eager"]
        assert most * xl.counts.saving.eager <= room < (most + 1) * xl.counts.saving.eager
        assert layout.largest["recompute"] > layout.largest["compiled"] > most


def test_limits() -> None:
    def layout(request: str, parallel: str, *overrides: str, spec: str = "dit") -> object:
        return api.plan(spec, request, overrides=["train.precision=bf16", *overrides]).layouts[parallel]

    assert layout("gpus=8,h100,network=1", "ddp").limit == "compute"  # no network within a node
    assert layout("gpus=16,h100,network=0.1", "ddp").limit == "network"
    assert layout("gpus=8,h100,memory=10", "ddp").limit == "memory"
    crowded = layout("gpus=8,h100", "ddp", "train.batch_size=4096")
    assert crowded.recompute and crowded.fits  # 512 samples of 400 MB each need it
    assert crowded.compute_time > 4096 / 8 * 4 * 237e9 / (0.4 * 989e12)
    reading = layout("gpus=8,h100", "ddp", "backbone.width=16", "backbone.depth=1", "train.batch_size=8192")
    assert reading.reading > READING
    assert reading.limit == "reading"


def test_accumulated_gradients_of_fsdp_are_whole() -> None:
    once = api.plan("dit", "gpus=8,h100").layouts["fsdp"]
    twice = api.plan("dit", "gpus=8,h100", overrides=["train.accumulate=2"]).layouts["fsdp"]
    assert twice.memory["gradients"] - once.memory["gradients"] == 4 * XL
    assert twice.traffic == pytest.approx(4 * 5 * XL * 7 / 8)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ("gpus=8", "must name one accelerator, not 0"),
        ("gpus=8,h100,a100", "must name one accelerator, not 2"),
        ("gpus=8,h10", "no such accelerator: 'h10'"),
        ("gpu=8,h100", "no such setting: 'gpu'"),
        ("gpus=0,h100", "gpus=0: expected the number of accelerators"),
        ("gpus=2.5,h100", "gpus=2.5"),
        ("gpus=8,h100,utilisation=40", "utilisation=40"),
        ("gpus=nan,h100", "gpus=nan"),
    ],
)
def test_wrong_requests(request_: str, said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        parse_request(request_)
    assert caught.value.diagnostics[0].code == "E0740"
    assert said in caught.value.diagnostics[0].message


def test_a_spec_without_objective_has_no_plan() -> None:
    with pytest.raises(DiagnosticError) as caught:
        api.plan("biggan", "h100")
    assert caught.value.diagnostics[0].code == "E0708"


def test_accelerators_have_sources() -> None:
    for device in ACCELERATORS.values():
        assert device.source and device.bf16 > device.tf32 > 0 and device.link >= device.network
    assert parse_request("H100").gpus == 8


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "digits_dit", "--plan", "gpus=2,l40s", "--set", "train.parallel=ddp"]) == 0
    said = capsys.readouterr().out
    assert "digits-dit on 2 × L40S 48 GB (1 node of 2), fp32" in said
    assert "ddp (the spec)" in said
    assert run(["show", "digits_dit", "--plan", "gpus=3,l40s", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["layouts"]["fsdp"]["fixed"] == pytest.approx(sum(data["layouts"]["fsdp"]["memory"].values()))
    assert run(["show", "digits_dit", "--plan", "gpus=3,l40s"]) == 0
    said = capsys.readouterr().out
    assert "is not divisible by 3" in said
    assert "train.parallel is none" in said


# ---- measured

MARGIN = {"digits_dit": 0.03, "dit_moe": 0.06, "digits_tarflow": 0.06, "digits_maskgit": 0.15, "digits_llamagen": 0.25}
SIZES = {
    "digits_dit": SMALL,
    "digits_llamagen": SMALL,
    "dit_moe": (*SMALL, "data={kind: npz, path: x.npz, shape: [4, 8, 8], classes: 10}"),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", MARGIN)
def test_memory_is_as_measured(name: str, precision: str, tmp_path: Path) -> None:
    """On the CPU, where RMS norms (MaskGIT, LlamaGen) are not fused and keep more than the plan counts."""
    spec = load_spec(name, overrides=[*SIZES.get(name, ()), f"train.precision={precision}"])
    lowered = lower(spec)
    counts = plan(spec, lowered, parse_request("gpus=1,h100")).counts
    real = measure(lowered, spec, tmp_path / "project")
    assert counts.saving.eager == pytest.approx(real.activations, rel=MARGIN[name])
    assert 4 * counts.weights.all == real.weights
    assert counts.weights.state_bytes == real.state
    assert counts.saving.recompute < counts.saving.eager
    assert counts.saving.compiled < counts.saving.eager


def test_recompute_keeps_inputs_of_blocks_and_one_block() -> None:
    """DiT: inputs x f32[T, w] of 4 blocks, the condition f32[w], what is outside, and one block again."""
    found = {}
    for depth in (4, 5):
        spec = load_spec("digits_dit", overrides=[*SMALL, f"backbone.depth={depth}"])
        found[depth] = plan(spec, lower(spec), parse_request("h100")).counts.saving
    tokens = 16
    assert found[5].recompute - found[4].recompute == tokens * 64 * 4
    assert found[5].eager - found[4].eager > 8 * tokens * 64 * 4
