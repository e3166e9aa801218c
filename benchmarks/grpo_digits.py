"""A small LlamaGen of digits, rewarded by a classifier: how the reward rises, and what another classifier says of it.

    python benchmarks/grpo_digits.py [--out out/grpo_digits] [--steps 300] [--updates 400] [--seeds 1]

Trains digits_llamagen for so few `--steps` that it still errs, and a classifier of tokens on the training half of the
digits, the reward; then digits_ar_grpo from both, for `--updates` steps of 16 groups of 8. Engines draw 1000 samples of
each, without a nucleus or guidance. The reward is the classifier's probability of the digit that was asked for; the
classifier of examples/digits, which training does not see, judges them, too. Goal, set before the first run: of what
the reward lacks to 1, a third is gained. Takes about eight minutes per seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from common import verdict
from numpy.typing import NDArray
from on_digits import Figures, judged, of_seed, spread, trained
from torch import Tensor, nn

import latentc_runtime
from latentc import api
from latentc.datasets.digits import open_dataset
from latentc.spec import load_spec

SAMPLES, FIRST = 1000, 9_000_000
SAMPLER = "sampler={kind: autoregressive}"


class Scorer(nn.Module):
    """Logits of the ten digits from 64 grey levels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens.float() / 8 - 1)  # type: ignore[no-any-return]


def scorer(file: Path) -> Scorer:
    """A classifier trained on the digits' training half, written as a program of `torch.export`."""
    settings = load_spec("digits_llamagen").data.settings()
    data = open_dataset(settings)
    tokens, labels = (torch.from_numpy(np.asarray(data.arrays[name])) for name in ("tokens", "y"))
    torch.manual_seed(0)
    network = Scorer()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(tokens), labels).backward()
        optimizer.step()
    network.eval()
    batch = torch.export.Dim("batch", min=2, max=65_536)
    exported = torch.export.export(network, (tokens[:4],), dynamic_shapes=({0: batch},))
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(exported, file)
    return network


def figures(network: Scorer, bundle: Path) -> tuple[float, Figures]:
    """The mean reward of an engine's samples of all digits in turn, and what the other classifier says."""
    labels = np.arange(SAMPLES) % 10
    tokens: NDArray[np.integer] = latentc_runtime.load(bundle, "cpu").sample(labels, np.arange(FIRST, FIRST + SAMPLES))
    with torch.no_grad():
        p = network(torch.from_numpy(np.asarray(tokens))).softmax(1).numpy()
    pictures = (np.asarray(tokens, np.float32) / 8 - 1).reshape(-1, 1, 8, 8)
    return float(p[np.arange(SAMPLES), labels].mean()), judged(pictures, labels)


def main() -> int:
    """Runs the benchmark; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/grpo_digits"), help="projects, weights and bundles")
    parser.add_argument("--steps", type=int, default=300, help="steps of digits_llamagen")
    parser.add_argument("--updates", type=int, default=400, help="steps of digits_ar_grpo")
    parser.add_argument("--seeds", type=int, default=1, help="repetitions, each from a training of its own")
    given = parser.parse_args()
    out = given.out.resolve()
    network, gains = scorer(out / "scorer.pt2"), []
    for seed in range(given.seeds):
        of = {spec: of_seed(out, spec, seed) for spec in ("digits_llamagen", "digits_ar_grpo")}
        before = [f"train.steps={given.steps}", SAMPLER]
        after = [f"objective.rewards=[{{kind: file, file: {out / 'scorer.pt2'}}}]", "train.log_every=10"]
        after.append(f"train.steps={given.updates}")
        start = trained("digits_llamagen", of["digits_llamagen"], None, before, seed)
        final = trained("digits_ar_grpo", of["digits_ar_grpo"], {"main": start.weights}, after, seed)
        reward = []
        for spec, training, overrides in (("digits_llamagen", start, before), ("digits_ar_grpo", final, after)):
            api.compile(spec, training.weights, of[spec] / "bundle", overrides=overrides)
            found, other = figures(network, of[spec] / "bundle")
            reward.append(found)
            print(
                f"seed {seed}: {spec}: reward {found:.4f}; {other}; {training.seconds:.0f} processor seconds",
                flush=True,
            )
        gains.append((reward[1] - reward[0]) / (1 - reward[0]))
    print(f"share of the missing reward that is gained: {spread(gains)}")
    line = verdict("share of the missing reward that is gained", float(np.mean(gains)), 1 / 3, "")
    print(line)
    return int("MISSED" in line)


if __name__ == "__main__":
    sys.exit(main())
