"""Labels of the data that are clusters of its samples, by features of a network in training.

`clusters.npz` of a run holds the newest: `labels` i64[N] in the order of the data, and `means` f32[K, D].
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from objective import clustered_features

from .data import Samples, checked
from .parallel import Run
from .storage import write_whole

STARTS = 10  # of the first k-means, of which the best is taken


class Clusters(nn.Module):
    """The cluster of each sample `labels` i64[N], and the mean features of each `means` f32[K, D].

    They are buffers, so checkpoints hold them.
    """

    def __init__(self, samples: Samples, networks: dict[str, nn.Module], config: dict[str, Any], run: Run):
        super().__init__()
        self.samples, self.settings, self.train_settings, self.run = samples, config["clusters"], config["train"], run
        self.networks = networks  # a dict, so that they are no modules of this one
        self.size = min(self.train_settings["batch_size"] // run.world, samples.size)
        count, seed, wanted = self.settings["count"], self.train_settings["seed"], self.settings["samples"]
        most = min(wanted or samples.size, samples.size)
        if most < count:
            raise SystemExit(f"clusters: {most} samples cannot have {count} clusters")
        order = np.random.default_rng([seed, 6]).permutation(samples.size)
        self.seen = np.sort(order[:most])  # by k-means
        width = self.over(np.zeros(1, np.int64), lambda features: features).shape[1]
        self.register_buffer("labels", torch.full((samples.size,), -1))
        self.register_buffer("means", torch.zeros(count, width))

    def due(self, step: int) -> bool:
        """True if the clusters are to be found before this step."""
        return step == 0 or (step % self.settings["every"] == 0 and step > self.settings["start"])

    def find(self, step: int, out: Path) -> None:
        """Clusters the data by the features that the network has now; every process gets the same clusters."""
        features, old = self.over(self.seen, lambda features: features), self.labels.numpy().copy()
        found = None
        if self.run.main:
            seed = int(np.random.default_rng([self.train_settings["seed"], 7, step]).integers(1 << 31))
            found = clustered(features, len(self.means), old[self.seen] if step else None, seed)
        labels, means = self.run.agreed(found)
        self.means.copy_(torch.from_numpy(means))
        if len(self.seen) == self.samples.size:
            self.labels.copy_(torch.from_numpy(labels))
        else:
            self.labels.copy_(torch.from_numpy(self.over(np.arange(self.samples.size), self.nearest)))
        if self.run.main:
            new = self.labels.numpy()
            sizes = np.bincount(new, minlength=len(means))
            kept = f", {np.mean(new == old):.0%} of the samples as before" if step else ""
            tqdm.write(f"step {step}: {len(means)} clusters of {sizes.min()} to {sizes.max()} samples{kept}")
            write_whole(out / "clusters.npz", partial(np.savez, labels=new, means=self.means.numpy()))

    def nearest(self, features: np.ndarray) -> np.ndarray:
        """The number i64[B] of the mean that is nearest to each of features f32[B, D]."""
        means = self.means.numpy()
        return np.argmax(features @ means.T - (means * means).sum(1) / 2, axis=1)

    @torch.no_grad()
    def over(self, rows: np.ndarray, made: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """`made` of the features f32[B, D] of batches of samples, for samples `rows` in order.

        Each process computes a part of them; all call the network equally often, as sharded networks must be.
        """
        run, network = self.run, self.networks[self.settings["network"]]
        share = self.size * run.world
        padded = np.resize(rows, -(-len(rows) // share) * share).reshape(-1, run.world, self.size)
        loader = DataLoader(
            self.samples,
            sampler=[(part[run.rank], 0) for part in padded],
            batch_size=None,
            num_workers=0 if self.samples.source.in_memory else self.train_settings["workers"],
            multiprocessing_context=None if self.samples.source.in_memory else "spawn",
            generator=torch.Generator(),  # otherwise it would draw from dropout's generator
        )
        training = network.training
        network.eval()
        found = []
        for batch in loader:
            x = checked(batch)["x"].to(run.device)
            found.append(made(clustered_features(network, x).float().cpu().numpy()))
        network.train(training)
        if run.parallel == "fsdp":
            network.reshard()  # without a backward pass, the root's weights would stay gathered
        whole = np.stack(run.gathered(np.stack(found)), axis=1)  # [parts, processes, B, ...]
        return whole.reshape(-1, *whole.shape[3:])[: len(rows)]

    def labelled(self, feed: Iterator[dict[str, Tensor]], order: Iterable[Any]) -> Iterator[dict[str, Tensor]]:
        """Batches whose labels `y` are the clusters of their samples, which `order` names."""
        for (rows, _), batch in zip(order, feed, strict=False):
            yield {**batch, "y": self.labels[torch.from_numpy(rows)]}


def clustered(features: np.ndarray, count: int, old: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters i64[N] of features f32[N, D] by k-means, and the mean of each f32[K, D].

    k-means starts from the means of the `old` clusters i64[N], and the new ones are numbered so that as many
    samples as possible keep theirs (Liu et al. 2020, arXiv:2006.10728). The first are the best of several.
    """
    if old is None:
        first = KMeans(count, init="k-means++", n_init=STARTS, random_state=seed).fit(features)
        return first.labels_.astype(np.int64), first.cluster_centers_.astype(np.float32)
    found = KMeans(count, init=means_of(features, old, count, seed), n_init=1).fit(features)
    common = np.zeros((count, count), np.int64)  # samples by new and old cluster
    np.add.at(common, (found.labels_, old), 1)
    _, number = linear_sum_assignment(common, maximize=True)
    means = np.empty(found.cluster_centers_.shape, np.float32)
    means[number] = found.cluster_centers_
    return number[found.labels_].astype(np.int64), means


def means_of(features: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The mean features of each cluster [K, D]; of an empty one, those of a sample chosen at random."""
    rng = np.random.default_rng(seed)
    means = np.empty((count, features.shape[1]), features.dtype)
    for cluster in range(count):
        own = features[labels == cluster]
        means[cluster] = own.mean(0, dtype=np.float64) if len(own) else features[rng.integers(len(features))]
    return means
