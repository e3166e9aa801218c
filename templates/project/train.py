"""Trains the networks of model.py with the losses of objective.py.

    python train.py                                              # one process
    python train.py --steps 1000 --out runs/try                  # any setting of config.yaml is a flag
    torchrun --nproc-per-node 8 train.py --parallel fsdp         # several: ddp, or fsdp (FSDP2)
    python train.py --resume true                                # continues from the newest checkpoint

    # on each of 4 nodes, which share the folder `--out`
    torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 train.py

A resumed run ends with the same bits as an uninterrupted one. With another number of processes it uses the
same data in the same order. SIGTERM and Ctrl-C save a checkpoint before exiting.
"""

import latentc_support.plain_errors  # noqa: F401

# isort: split

import copy
import math
import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from latentc_support.changes import record
from latentc_support.checkpoint import Checkpoints, State, load_weights, network_state, save_weights, seed_generators
from latentc_support.config import load_config
from latentc_support.data import Order, batches, class_names, generator, open_data
from latentc_support.evaluate import Judge
from latentc_support.logs import Logs, grids_of
from latentc_support.media import FORMATS
from latentc_support.optimizers import make_optimizer
from latentc_support.parallel import Run, averaged, reshard, shard, wrap
from latentc_support.pixels import png
from latentc_support.rounds import Round, rate_of, round_of, start_round
from latentc_support.storage import inherited, sweep, write_text, write_whole
from model import NETWORKS
from objective import UPDATES, Update
from sample import (
    SAMPLED,
    declared,
    draw,
    field_of,
    preview_given,
    program_of,
    save,
    titles_of,
    usual_given,
    with_first_stage,
)

CHECKING = 20.0  # seconds to read images for before the first step, so that damaged ones are found early

Networks = dict[str, nn.Module]


def settings_of(network: str, train: dict[str, Any]) -> dict[str, Any]:
    """The settings of a network's optimiser: its own, or the default."""
    return train.get("optimizers", {}).get(network, train["optimizer"])


# region roles
def start(networks: Networks, roles: dict[str, Any], resumed: bool) -> None:
    """Loads the initial weights of networks, from a file or from the network they copy or average."""
    for name, role in roles.items():
        if (file := role.get("pretrained")) and not resumed:
            load_weights(networks[name], name, Path(file), role.get("fresh_weights", ()), role.get("like"))
    for name, role in roles.items():
        if source := role.get("copy_of"):
            try:  # weights that the source lacks keep their initial values
                own, fresh = networks[name], role.get("fresh_weights", ())
                own.load_state_dict(inherited(networks[source].state_dict(), own, fresh), strict=False)
            except RuntimeError as error:
                raise SystemExit(f"roles.{name}.copy_of: {source} does not fit: {error}") from None
    for name, role in roles.items():
        if source := role.get("average_of"):
            networks[name].load_state_dict(networks[source].state_dict())
            networks[name].requires_grad_(False).eval()
        elif role.get("frozen"):
            networks[name].requires_grad_(False).eval()
        for weight, parameter in networks[name].named_parameters():
            if any(fnmatchcase(weight, pattern) for pattern in role.get("frozen_weights", ())):
                parameter.requires_grad_(False)


# endregion
# region weight_norm
def start_layers(networks: Networks, dataset: Any, config: dict[str, Any], home: torch.device, run: Run) -> None:
    """Initialises weight normalisation from the first batch, unless weights were loaded."""
    from latentc_support.weight_norm import start_from_data

    roles = config.get("roles", {})
    size, feed = config["train"]["batch_size"] // run.world, batches(dataset, config, 0, run.rank, run.world)
    for turn, update in enumerate(UPDATES):
        batch = next(feed) if update.batch else {}
        inputs = {name: batch[name] for name in update.batch}
        inputs |= update.draws(size, generator(config["train"]["seed"], 4, turn, run.rank, 0))
        # region round
        if update.takes_round:
            inputs["round"] = torch.tensor(0)
        # endregion
        # region training_step
        if update.takes_step:
            inputs["training_step"] = torch.tensor(0)
        # endregion
        # region renamed
        arguments = dict(update.renamed)
        inputs = {arguments.get(name, name): value for name, value in inputs.items()}
        # endregion
        inputs = {name: value.to(home) for name, value in inputs.items()}
        models = [networks[name] for name in update.networks]
        given = [n for n, role in roles.items() if role.get("pretrained") or role.get("copy_of")]
        fresh = [networks[name] for name in update.trained if name not in given]
        start_from_data(fresh, lambda: update.loss(*models, **inputs), run.device)  # noqa: B023
    # region roles
    averages = {name: role for name, role in roles.items() if "average_of" in role}
    start(networks, averages, False)
    # endregion


# endregion
@torch.no_grad()
def update_averages(averages: Networks, networks: Networks, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * weight, including running statistics."""
    for name, average in averages.items():
        torch._foreach_lerp_(list(average.parameters()), list(networks[name].parameters()), 1 - decay)
        for kept, buffer in zip(average.buffers(), networks[name].buffers(), strict=True):
            kept.lerp_(buffer, 1 - decay) if kept.is_floating_point() else kept.copy_(buffer)


# region warm
def ema_decay(ema: dict[str, Any], step: int) -> float:
    """The decay of the averaged weights in a step, which a warm-up limits at first."""
    return min(ema["decay"], (1 + step) / (10 + step)) if ema["warmup"] else ema["decay"]


# endregion
# region single
def warn_of_share(train: dict[str, Any], steps: int) -> None:
    """Prints a warning if the averaged weights hold more than a tenth of the initial ones after all steps."""
    # region fixed
    share = train["ema"] ** steps if train["ema"] else 0
    # endregion
    # region warm
    share = ema_decay(train["ema"], 0) ** steps  # a warm-up starts with at most a tenth
    # endregion
    if share > 0.1:
        print(
            f"warning: after {steps} steps {share:.0%} of the averaged weights (`ema`) are the initial "
            "weights: train longer, lower the decay, or let the spec give it a warm-up "
            "(`ema: {decay: 0.9999}`); weights_raw.safetensors holds the last weights"
        )


# endregion
# region grown
def decay_of(role: dict[str, Any], step: int) -> float:
    """The decay of an average in a step of training. It may rise with the steps of the time grid."""
    if "grids" not in role:
        return role["decay"]
    grids = role["grids"]
    used = sum(start <= step for start in grids["starts"]) - 1
    return role["decay"] ** (grids["first"] / grids["steps"][used])


# endregion
def sliced(batch: dict[str, Tensor], part: int, parts: int) -> dict[str, Tensor]:
    """One of the equal parts of a batch."""
    return {k: v.chunk(parts)[part] for k, v in batch.items()}


@dataclass(frozen=True)
class Turn:
    """The `number`-th optimiser step of training step `step`, at a fraction `rate` of the learning rate."""

    step: int
    number: int
    rate: float
    # region rounds
    of_round: Round
    # endregion


def train_step(
    update: Update,
    state: State,
    wrapped: Networks,
    batch: dict[str, Tensor],
    train: dict[str, Any],
    turn: Turn,
    run: Run,
) -> list[Tensor]:
    """One optimiser step. Returns the metrics (over this process's samples) and the gradient norm.

    Only the trained networks get gradients and synchronise them between processes; the others are called
    without their wrapper.
    """
    networks = state.networks
    for name in update.networks:
        if run.parallel == "fsdp":  # gradients accumulate in the shards, not in gathered weights
            reshard(networks[name])
        networks[name].requires_grad_(False)
    # region forced
    if run.parallel == "fsdp":  # a forward pass would overwrite only gathered copies of the weights
        for name in update.trained:
            for module in networks[name].modules():
                if hasattr(module, "force_norm"):
                    module.force_norm()
    # endregion
    optimizers = {name: state.optimizers[name] for name in update.trained}
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    weights = [p for group in groups for p in group["params"]]
    for weight in weights:
        weight.requires_grad_(True)
    inputs = (update, networks, wrapped, batch, train, turn, run)
    totals = gradients(*inputs)
    # region sam
    radii = {n: radius for n in update.trained if (radius := settings_of(n, train).get("sam"))}
    if radii:  # take the gradient at a nearby point of higher loss
        from latentc_support.sam import climb

        climbers = {n: [p for g in optimizers[n].param_groups for p in g["params"]] for n in radii}
        # region climbs
        rest = {}
        if update.climbs:  # the gradient of the rest of the loss stays that at the weights
            inputs = (climbed(update), *inputs[1:])
            whole = {p: p.grad for p in weights if p.grad is not None}
            for optimizer in optimizers.values():
                optimizer.zero_grad(set_to_none=True)
            gradients(*inputs)
            rest = {p: g if p.grad is None else g - p.grad for p, g in whole.items()}
        # endregion
        moves = {name: climb(parameters, radii[name]) for name, parameters in climbers.items()}
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        gradients(*inputs)
        with torch.no_grad():
            for name, parameters in climbers.items():
                torch._foreach_sub_(parameters, moves[name])
            # region climbs
            for weight, gradient in rest.items():
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
            # endregion
    # endregion
    # region orthogonal
    strengths = {n: strength for n in update.trained if (strength := settings_of(n, train).get("orthogonal"))}
    if strengths:
        from latentc_support.orthogonal import straighten

        for name, strength in strengths.items():
            matrices = [g["params"] for g in optimizers[name].param_groups if g["matrices"]]
            straighten([p for parameters in matrices for p in parameters], strength)
    # endregion
    norm = nn.utils.clip_grad_norm_(weights, train["clip"] or math.inf)
    for group in groups:
        group["lr"] = group["base_lr"] * turn.rate
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if run.parallel == "fsdp":  # averages and checkpoints read the shards, even of weights without gradients
        for name in update.networks:
            reshard(networks[name])
    return [*totals, norm.full_tensor() if hasattr(norm, "full_tensor") else norm]


def gradients(
    update: Update,
    networks: Networks,
    wrapped: Networks,
    batch: dict[str, Tensor],
    train: dict[str, Any],
    turn: Turn,
    run: Run,
) -> list[Tensor]:
    """Adds the gradients of one update's loss to its trained weights; returns the metrics."""
    parts = train["accumulate"]
    size = train["batch_size"] // (run.world * parts)
    trained = [wrapped[name] for name in update.trained]
    models = [(wrapped if name in update.trained else networks)[name] for name in update.networks]
    totals: list[Tensor] = []
    for part in range(parts):
        piece = sliced(batch, part, parts)
        key = (train["seed"], 4, turn.step * len(UPDATES) + turn.number, run.rank, part)
        inputs = {**piece, **update.draws(size, generator(*key))}
        # region round
        if update.takes_round:
            inputs["round"] = torch.tensor(turn.of_round.number)
        # endregion
        # region training_step
        if update.takes_step:
            inputs["training_step"] = torch.tensor(turn.step)
        # endregion
        # region renamed
        arguments = dict(update.renamed)
        inputs = {arguments.get(name, name): value for name, value in inputs.items()}
        # endregion
        inputs = {k: v.to(run.device, non_blocking=True) for k, v in inputs.items()}
        last = part == parts - 1
        if run.parallel == "fsdp":
            for model in trained:
                model.set_requires_gradient_sync(last)
                # region differentiates
                # Differentiated twice: the second backward pass needs the weights gathered for the first.
                model.set_reshard_after_backward(not update.differentiates)
                # endregion
        with ExitStack() as quiet:
            if run.parallel == "ddp" and not last:
                for model in trained:
                    quiet.enter_context(model.no_sync())
            # region brain
            with torch.autocast(run.device.type, torch.bfloat16, enabled=train["precision"] == "bf16"):
                outputs = update.loss(*models, **inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = outputs[0] / parts
            # endregion
            # region fp16
            low = torch.float16 if train["precision"] == "fp16" else torch.bfloat16
            with torch.autocast(run.device.type, low, enabled=train["precision"] != "fp32"):
                outputs = update.loss(*models, **inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = outputs[0] * (scaling(train) / parts)
            # endregion
            # region partial
            if run.parallel == "ddp" and update.partial:  # DDP expects a gradient for every weight
                loss = loss + 0 * sum(p.sum() for model in trained for p in model.parameters())
            # endregion
            loss.backward()
        # region differentiates
        if run.parallel == "fsdp" and update.differentiates:
            for model in trained:
                model.set_reshard_after_backward(True)
                reshard(model)
        # endregion
        values = [o.detach() / parts for o in outputs]
        totals = [a + b for a, b in zip(totals, values, strict=True)] if totals else values
    # region fp16
    if train["precision"] == "fp16":
        finite([p.grad for model in trained for p in model.parameters() if p.grad is not None], scaling(train))
    # endregion
    return totals


# region climbs
def climbed(update: Update) -> Update:
    """The update by the part of its loss that SAM climbs alone."""
    return replace(update, loss=lambda *models, **inputs: update.loss(*models, **inputs)[update.climbs])


# endregion
# region fp16
def scaling(train: dict[str, Any]) -> float:
    """Loss scale, which keeps most gradients within the range of float16."""
    return train["loss_scaling"] if train["precision"] == "fp16" else 1.0


def finite(gradients: list[Tensor], scaling: float) -> None:
    """Divides gradients by the loss scale; gradients that overflowed float16 become 0."""
    for gradient in gradients:
        own = gradient.to_local() if hasattr(gradient, "to_local") else gradient
        torch.nan_to_num(own.div_(scaling), nan=0.0, posinf=0.0, neginf=0.0, out=own)


# endregion


# region previewed
def drawn(config: dict[str, Any], networks: Networks, given: Any, run: Run) -> Tensor:
    """Samples of networks in training, without a change to the state of its random number generators."""
    train, modes = config["train"], {name: network.training for name, network in networks.items()}
    batch = train["batch_size"] // (run.world * train["accumulate"])  # which fits into memory
    # region staged
    sampled = with_first_stage(networks, config, run.device)
    samples = next(iter(draw(sampled, given, batch=min(batch, 64)).values()))
    # endregion
    # region direct
    samples = next(iter(draw(networks, given, batch=min(batch, 64)).values()))
    # endregion
    for name, network in networks.items():
        network.train(modes[name])
        if run.parallel == "fsdp":
            network.reshard()  # without a backward pass, the root's weights would stay gathered
    return samples


# region staged
def grid_interval(config: dict[str, Any], run: Run) -> int | None:
    """Steps between sample grids, or None.

    Without weights of the first stage, which training on cached latents does not need, there are none, and a
    warning says so. They are loaded here because that draws from torch's generator.
    """
    every, decodes = config["train"]["sample_every"], True
    if every and (run.main or run.parallel == "fsdp"):
        try:
            with_first_stage({}, config, run.device)
        except SystemExit as error:
            decodes = False
            print(f"warning: there will be no sample grids: {error}", flush=True)
    return every if all(run.gathered(decodes)) else None


# endregion
def preview(config: dict[str, Any], networks: Networks, usual: Any, step: int, run: Run, logs: Any) -> None:
    """Writes samples, one row per class; none if they are not finite, as those of a young network can be.

    Pictures are also written class by class, and shown in the logs.
    """
    given = preview_given(usual)
    samples = drawn(config, networks, given, run)
    finite = bool(torch.isfinite(samples).all())
    if run.main and not finite:
        tqdm.write(f"step {step}: samples are not finite, so there is no grid of them")
    elif run.main:
        folder = Path(config["train"]["out"]) / "samples"
        conditions, _ = declared(program_of(), class_names(config))
        titles = titles_of(given, conditions)
        labels = titles if any(c.names for c in conditions) else []
        suffix = next((s for s in (".png", ".txt") if s in FORMATS), ".npz")
        for suffix in [suffix, ".wav"] if ".wav" in FORMATS else [suffix]:
            save(samples, config, folder / f"{step:08d}{suffix}", 8, labels)
        # region pictured
        grids = grids_of(samples.numpy(), field_of(config), titles, 8)
        for name, picture in grids.items() if titles else ():
            write_whole(folder / name / f"{step:08d}.png", partial(Path.write_bytes, data=png(picture)))
        # region logged
        logs.show(grids, step)
        # endregion
        # endregion


# endregion
def check(config: dict[str, Any], run: Run) -> None:
    train = config["train"]
    # region reference
    share = run.world * train["accumulate"] * max(update.reference for update in UPDATES)
    factors = "processes x accumulate x reference"
    # endregion
    # region alone
    share, factors = run.world * train["accumulate"], "processes x accumulate"
    # endregion
    if (size := train["batch_size"]) % share:
        raise SystemExit(f"batch_size: {size} is not divisible by {factors} = {share}")
    # region rounds
    if train["steps"] < (rounds := config["rounds"]["count"]):
        raise SystemExit(f"steps: {train['steps']} is too few: each of {rounds} rounds needs a step")
    # endregion


def main() -> None:
    config = load_config()
    train = config["train"]
    run = Run(train)
    check(config, run)
    if train["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("high")
    out = Path(train["out"])
    for folder in (out, out / "checkpoints"):
        if folder.exists() and not folder.is_dir():
            raise SystemExit(f"--out: {folder} is a file, not a folder")
    if run.main:
        sweep(out)
    checkpoints = Checkpoints(out, train["keep"])
    found = run.agreed(bool(checkpoints.all()))
    if found and not train["resume"]:
        raise SystemExit(f"{out} already holds checkpoints: `--resume true` continues, `--out` starts elsewhere")
    dataset = open_data(config)
    # region files
    if run.main and not found:
        dataset.check(CHECKING)
    # endregion
    # region labelled
    dataset.require(dict.fromkeys(name for update in UPDATES for name in update.batch))
    # endregion
    # region clustered
    dataset.require(dict.fromkeys(name for update in UPDATES for name in update.batch if name != "y"))
    # endregion
    # region previewed
    # region staged
    grids_every = grid_interval(config, run)
    # endregion
    # region direct
    grids_every = train["sample_every"]
    # endregion
    # region classes
    usual = usual_given
    # endregion
    # region conditions
    usual = partial(usual_given, indexes=getattr(dataset.source, "indexes", {}))  # by condition
    # endregion
    # endregion

    torch.manual_seed(train["seed"])
    # FSDP moves each block to its device when it shards it, so the whole need not fit there.
    home = torch.device("cpu") if run.parallel == "fsdp" else run.device
    networks = {name: build(**config["model"][name]).to(home) for name, build in NETWORKS.items()}
    # region batch_norm
    if run.world > 1:
        from latentc_support.batch_norm import synchronise

        for network in networks.values():
            synchronise(network)
    # endregion
    # region rounds
    rounds = config["rounds"]
    # endregion
    # region roles
    roles = config["roles"]
    start(networks, roles, found)
    # endregion
    # region weight_norm
    if not found:
        start_layers(networks, dataset, config, home, run)
    # endregion
    # region single
    averaging = SAMPLED if train["ema"] else []
    averages = {n: copy.deepcopy(networks[n]).requires_grad_(False).eval() for n in averaging}
    copies = averages.items()
    # endregion
    # region power
    from latentc_support.ema import Profiles

    profiles = Profiles(train["ema"], {n: networks[n] for n in SAMPLED})
    averages, copies = profiles.averages, [*profiles.averages.items(), *profiles.others.items()]
    # endregion
    trained = list(dict.fromkeys(name for update in UPDATES for name in update.trained))
    if run.parallel == "fsdp":
        for name, network in [*networks.items(), *copies]:
            shard(network, run, network is networks[name] and name in trained)
    optimizers = {name: make_optimizer(networks[name], settings_of(name, train)) for name in trained}
    wrapped = {name: wrap(networks[name], run, train) for name in trained}
    # region single
    state = State(networks, averages, optimizers)
    # endregion
    # region power
    state = State(networks, averages, optimizers, profiles.others)
    # endregion
    # region clustered
    from latentc_support.clusters import Clusters

    clusters = Clusters(dataset, networks, config, run)
    state.others = {**state.others, "clusters": clusters}
    # endregion
    seed_generators(train["seed"], 5, run.rank)  # from here on, processes draw different numbers (dropout)

    step = checkpoints.resume(state, config, run) if found else 0
    if run.main:
        record(out, config, checkpoints.changes)
        if names := "\n".join(class_names(config)):
            write_text(out / "class_names.txt", f"{names}\n")
        # region single
        warn_of_share(train, train["steps"])
        # endregion
        count = sum(p.numel() for n in networks.values() for p in n.parameters())
        print(f"{count:,} parameters, {dataset.size:,} samples, {run.world} process(es) on {run.device.type}")

    logs = None
    # region logged
    logs = Logs(config, step) if run.main else None
    # endregion
    # region batches
    fed = sum(bool(update.batch) for update in UPDATES)  # batches of data per step
    # endregion
    # region rollouts
    from latentc_support.rollouts import load_rewards, roll_out

    rewards = load_rewards(config["rewards"], run.device)
    fed = 1  # batches of data per step: all updates learn from the same samples
    # endregion
    feed = batches(dataset, config, step * fed, run.rank, run.world)
    # region clustered
    order = Order(dataset.size, train["batch_size"], train["seed"], step * fed, run.rank, run.world)
    feed = clusters.labelled(feed, order)
    # endregion

    def fetched(saves: bool = True) -> dict[str, Tensor]:
        """The next batch. If a file cannot be read, training ends, but what it has learnt is saved."""
        try:
            return next(feed)
        except SystemExit:
            if saves and run.world == 1 and step > max(saved, 0):
                checkpoints.save(step, state, config, run)
            raise

    hidden = None if run.main else True
    bar = tqdm(total=train["steps"], initial=step, desc="training", unit="step", disable=hidden)
    # region evaluated
    judge = None
    # endregion
    since, logged, saved = time.perf_counter(), step, step if found else -1
    began, first = since, step
    metrics = {}  # latest metrics of each update
    while step < train["steps"]:
        # region rounds
        of_round = round_of(step, train["steps"], rounds["count"])
        if step == of_round.first > 0:
            start_round(rounds, networks, averages, optimizers)
            if run.main:
                tqdm.write(f"round {of_round.number + 1} of {rounds['count']}")
        rate = rate_of(train["schedule"], step - of_round.first, of_round.end - of_round.first)
        # endregion
        # region once
        rate = rate_of(train["schedule"], step, train["steps"])
        # endregion
        # region rollouts
        batch = fetched()
        batch = {name: batch[name] for name in UPDATES[0].batch}
        batch |= roll_out(rewards, networks, batch, config, step, run)
        # endregion
        # region clustered
        if clusters.due(step):
            clusters.find(step, out)
        # endregion
        for number, update in enumerate(UPDATES):
            # region batches
            batch = fetched(saves=number == 0) if update.batch else {}
            batch = {name: batch[name] for name in update.batch}
            # endregion
            # region timed
            if not update.due(step):
                continue
            # endregion
            # region rounds
            turn = Turn(step, number, rate, of_round)
            # endregion
            # region once
            turn = Turn(step, number, rate)
            # endregion
            metrics[update] = train_step(update, state, wrapped, batch, train, turn, run)
        # region single
        # region fixed
        decay = train["ema"]
        # endregion
        # region warm
        decay = ema_decay(train["ema"], step)
        # endregion
        # region roles
        if averages:  # those of frozen networks do not change
            moving = {n: a for n, a in averages.items() if not roles.get(n, {}).get("frozen")}
            update_averages(moving, networks, decay)
        # endregion
        # region plain
        if averages:
            update_averages(averages, networks, decay)
        # endregion
        # endregion
        # region power
        profiles.update(networks, step + 1)
        # endregion
        # region roles
        for name, role in roles.items():
            if source := role.get("average_of"):
                # region even
                decay = role["decay"]
                # endregion
                # region grown
                decay = decay_of(role, step)
                # endregion
                update_averages({name: networks[name]}, {name: networks[source]}, decay)
        # endregion
        step += 1
        bar.update()
        # Checked before checkpoints too, because those of a failed run would displace good ones.
        if step % train["log_every"] == 0 or step % train["checkpoint_every"] == 0 or step == train["steps"]:
            values = {}
            for update, numbers in metrics.items():
                # `loss`, or for example `generator/loss` if there are several
                words = [*update.metrics, update.metrics[0].replace("loss", "gradient_norm")]
                values |= dict(zip(words, averaged(numbers, run), strict=True))
            speed = (step - logged) * train["batch_size"] / (time.perf_counter() - since)
            since, logged = time.perf_counter(), step
            bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=False)
            if bar.disable and run.main:  # no terminal: print lines instead of a bar
                shown = ", ".join(f"{k} {v:.4g}" for k, v in values.items())
                left = tqdm.format_interval((since - began) / (step - first) * (train["steps"] - step))
                print(f"step {step}/{train['steps']}: {shown}, {speed:.0f} samples/s, {left} left", flush=True)
            # region logged
            if logs:
                curves = {**values, "samples_a_second": speed}
                for name, optimizer in optimizers.items():
                    label = "learning_rate" if len(optimizers) == 1 else f"{name}/learning_rate"
                    curves[label] = optimizer.param_groups[0]["lr"]
                logs.add(curves, step)
            # endregion
            for name in dict.fromkeys(update.metrics[0] for update in metrics):
                value = values[name]
                if not math.isfinite(value):
                    raise SystemExit(f"the {name} is {value} at step {step}; {out} keeps the state before it")
        stop = run.should_stop(step)
        if step % train["checkpoint_every"] == 0 or step == train["steps"] or stop:
            checkpoints.save(step, state, config, run)
            saved = step
        # region power
        if step % train["ema"]["snapshot_every"] == 0 or step == train["steps"]:
            profiles.save(out / "snapshots", step, run)
        # endregion
        # region previewed
        # Sharded weights are gathered by all processes together.
        sampling = grids_every and (step % grids_every == 0 or step == train["steps"])
        if sampling and (run.main or run.parallel == "fsdp"):
            preview(config, averages or networks, usual, step, run, logs)
        # endregion
        # region evaluated
        judging = train["evaluate_every"] and step % train["evaluate_every"] == 0
        if judging and (run.main or run.parallel == "fsdp"):
            judge = judge or Judge(config, run.device, usual(train["evaluate_samples"]))
            samples = drawn(config, averages or networks, judge.given, run)
            figures = judge(samples) if run.main else {}
            if run.main:
                tqdm.write(f"step {step}: {', '.join(f'{k} {v:.4g}' for k, v in figures.items())}")
            # region logged
            if logs:
                logs.add({f"evaluate/{name}": value for name, value in figures.items()}, step)
            # endregion
        # endregion
        if stop:
            if run.main:
                print(f"\nstopped at step {step} and saved. `--resume true` continues.")
            break
    bar.close()
    # region logged
    if logs:
        logs.close()
    # endregion
    if saved == step and step == train["steps"]:
        holders_of = {"weights": averages or {n: networks[n] for n in SAMPLED}, "weights_raw": networks}
        for name, holders in holders_of.items():
            states = {n: network_state(network, run) for n, network in holders.items()}
            if run.main:
                save_weights(states, out / f"{name}.safetensors")
        # region power
        if run.main and train["ema"]["target"]:
            profiles.reconstruct(out / "snapshots", out / "weights.safetensors")
        # endregion
        if run.main:
            print(f"weights: {out / 'weights.safetensors'}")
            # region single
            warn_of_share(train, step)
            # endregion
    run.close()


if __name__ == "__main__":
    main()
