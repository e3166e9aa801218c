"""The autoencoder of waveforms against its layers in PyTorch, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

FACTORS, BLOCKS, GROUPS = [2, 4], [1, 2], 2
SIZES = ["data.fields.x.shape=[2, 32]", "backbone.widths=[4, 6]", f"backbone.factors={FACTORS}"]
SIZES += [f"backbone.blocks={BLOCKS}", "backbone.channels=3", f"backbone.groups={GROUPS}"]


def test_codes_and_waveforms_are_those_of_its_layers_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    lowered = lower(load_spec("music_autoencoder", None, SIZES))
    own = weights_of(lowered, 0.3, 1)
    weights = {name.removeprefix("main."): torch.from_numpy(np.float64(a)) for name, a in own.items()}
    methods, oracle, f = lowered.networks["main"].methods, Interpreter(lowered.module, own), torch.nn.functional

    def conv(name, x, **more):
        return f.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **more)

    def blocks(side, level, x):
        for i in range(BLOCKS[level]):
            h = x
            for part in "12":
                norm, name = (f"{side}.levels.{level}.blocks.{i}.{kind}{part}" for kind in ("norm", "conv"))
                h = f.group_norm(h, GROUPS, weights[f"{norm}.weight"], weights[f"{norm}.bias"], 1e-5)
                h = conv(name, f.silu(h), padding=1)
            x = x + h
        return x

    x = np.random.default_rng(2).standard_normal((2, 2, 32))
    z = torch.from_numpy(x)
    for level, factor in enumerate(FACTORS):
        z = blocks("encoder", level, conv(f"encoder.levels.{level}.resample", z, stride=factor))
    z = conv("encoder.output", z, padding=1).tanh()
    y = conv("decoder.input", z, padding=1)
    for level, factor in reversed(list(enumerate(FACTORS))):
        y = blocks("decoder", level, y).repeat_interleave(factor, dim=2)
        y = conv(f"decoder.levels.{level}.resample", y, padding=1)
    assert (tuple(z.shape), tuple(y.shape)) == ((2, 3, 4), (2, 2, 32))
    (codes,) = oracle.run(methods["encode"].function, x, prefix="main")
    assert np.abs(codes[:, :3] - z.numpy()).max() < 1e-12
    assert np.exp(codes[:, 3:]).max() < 1e-12, "latents are certain"
    for method, given in (("decode", z.numpy()), ("forward", x)):
        (found,) = oracle.run(methods[method].function, given, prefix="main")
        assert np.abs(found - y.numpy()).max() < 1e-12 * np.abs(y.numpy()).max(), method


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("backbone.blocks=[1]", "1 `blocks` for 2 levels"),
        ("backbone.groups=4", "6 channels do not divide into 4 groups"),
        ("data.fields.x.shape=[2, 30]", "a waveform of 30 samples is not a multiple of the 8 samples of a latent"),
        ("data.fields.x={shape: [3, 32, 32], medium: image, rate: null}", "takes waveforms [channels, time]"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(override: str, said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("music_autoencoder", None, [*SIZES, override])
    assert said in str(error.value), error.value
