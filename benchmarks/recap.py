"""MAR whose steps reuse keys and values (ReCAP) against MAR whose steps evaluate all tokens, whole engines.

    python benchmarks/recap.py [--steps 32] [--reusing 3] [--diffusion 25] [--engine onnxruntime] [--rounds 2] [--count]

Goal: at least 2.4 times as fast, as the paper has it at equal steps. Both are MAR-B (256 tokens, guidance) with random
weights of its real sizes, the same numbers of sets, batch 1, fp32, one thread, without the decoder of pixels. A token
that is drawn with reuse takes 40 % of the denoising steps, as in the authors' scripts. Both draw in turn, and the
least of some rounds counts; seconds are of the processor, so that other programs on a busy machine count less.
Operations are counted before, a multiply-add as two; `--count` does no more.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from common import random_bundle, turns, verdict

import latentc_runtime
from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.spec import load_spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="B")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--reusing", type=int, default=3)
    parser.add_argument("--diffusion", type=int, default=25)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", action="store_true", help="count operations only")
    flags = parser.parse_args()
    fewer = round(0.4 * flags.diffusion)
    reuse = f"{{after: 0, steps: {flags.reusing}, diffusion: {{kind: ddpm, respacing: '{fewer}'}}}}"
    shared = ["data.first_stage=null", "sampler.inpaint=false", f"sampler.steps={flags.steps}"]
    shared.append(f"target.engine={flags.engine}")
    shared.append(f"sampler.diffusion.respacing='{flags.diffusion}'")
    forms = {"all tokens": [], "reuse": ["sampler.kind=recap_autoregressive", f"sampler.reuse={reuse}"]}
    work = {name: _operations(flags.variant, [*shared, *form]) for name, form in forms.items()}
    for name, count in work.items():
        print(f"MAR-{flags.variant} in {flags.steps} sets, {name}: {count / 1e12:.2f} TFLOP a sample")
    print(f"operations of all tokens against reuse: {work['all tokens'] / work['reuse']:.2f} ×", flush=True)
    if flags.count:
        return
    with tempfile.TemporaryDirectory() as folder:
        pipes = {}
        for name, form in forms.items():
            bundle = Path(folder, name)
            random_bundle(bundle, "mar", flags.variant, [*shared, *form])
            pipes[name] = latentc_runtime.load(bundle, threads=1, verify=False)
            pipes[name].open_engines()
        calls = {name: lambda pipe=pipe: pipe.sample([1], seeds=0) for name, pipe in pipes.items()}
        taken = turns(calls, flags.rounds, clock=time.process_time)
    seconds = {name: min(rounds) for name, rounds in taken.items()}
    for name, least in seconds.items():
        print(f"MAR-{flags.variant} in {flags.steps} sets, {name}: {least:.1f} s", flush=True)
    print(verdict("reuse against all tokens", seconds["all tokens"] / seconds["reuse"], 2.4))


def _operations(variant: str, overrides: list[str]) -> int:
    """Floating-point operations of the whole sampler, without the decoder of the first stage."""
    lowered = lower(load_spec("mar", variant, overrides))
    return flops(lowered.module, lowered.module.entries[lowered.programs[0].entry])


if __name__ == "__main__":
    main()
