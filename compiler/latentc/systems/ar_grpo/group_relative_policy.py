"""Group-relative policy optimisation: samples of the same condition are compared by their rewards.

Symbols: B conditions, G samples of each, N = B G, T tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.backbone import Backbone
from latentc.components.condition import GivenInput
from latentc.components.contract import Need, Network, OutputField, Program, Rollout, Update
from latentc.components.kit import Conditions
from latentc.components.kit.texts import counted
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler, ScoringSampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B, Named
from latentc.systems.ar_grpo.reward import Reward

REFERENCE = "reference"
"""Name of the network that `main` stays near."""
ROLLOUT = "rollout"
"""Name of the program that training draws samples with."""


class GroupRelativePolicy(Objective):
    """GRPO (Shao et al. 2024, arXiv:2402.03300) for token models, as in AR-GRPO (Yuan et al. 2025, arXiv:2508.06924).

    In every step `main` draws a `group` of samples for each condition of the batch with the spec's own sampler. A
    sample's advantage is its reward minus its group's mean, divided by the group's standard deviation. Token
    probabilities are updated through the clipped ratio to their values when drawn, with a penalty on the divergence
    from the frozen network `reference`. `train.batch_size` counts conditions. Set the network's dropout to 0: it would
    blur the ratios.
    """

    kind: Literal["group_relative_policy"]
    rewards: tuple[Annotated[Reward, OneOf("objectives/rewards", named=True)], ...] = Field(
        min_length=1, max_length=32, description="rewards of samples, summed with their weights"
    )
    group: int = Field(8, ge=2, le=1_024, description="samples drawn per condition (G)")
    clip: float = Field(0.2, gt=0, lt=1, description="the probability ratio is clipped to [1 - clip, 1 + clip]")
    clip_above: float | None = Field(
        None, gt=0, le=1_024, description="upper clip of the ratio: 1 + this; null: as `clip`"
    )
    most: float | None = Field(
        None, gt=1, le=65_536, description="upper bound of the ratio, also for negative advantages; null: none"
    )
    guided: bool = Field(
        False,
        description="probabilities are those under the sampler's guidance, which draws the samples; false: those of "
        "the conditional network (AR-GRPO's code)",
    )
    kl: float = Field(0.1, ge=0, description="weight of the KL divergence from the reference; 0: none")
    updates: int = Field(1, gt=0, le=64, description="optimiser steps per batch of samples")
    normalise: bool = Field(True, description="divide advantages by the standard deviation of their group's rewards")
    average: Literal["tokens", "samples", "length"] = Field(
        "tokens",
        description="of texts that end: all tokens up to the ends count alike, or all samples do, or losses are added "
        "up and divided by the length of a sample (TRL's `bnpo`, `grpo` and `dr_grpo`)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "group_relative_policy",
        "group": 2,
        "rewards": [{"kind": "python", "function": "rewards:score"}],
    }

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return Need("main", "next_token"), *((Need(REFERENCE, "next_token"),) if self.kl else ())

    def problems(self, spec: Spec) -> Iterator[Problem]:
        sampler = spec.sampler
        if not isinstance(sampler, ScoringSampler):
            what = "there is none" if not isinstance(sampler, Sampler) else f"`{sampler.kind}` does not"
            message = f"rollouts need a sampler that returns the probabilities of its tokens, but {what}"
            yield Problem((), message, "use `sampler: {kind: autoregressive}`")
        else:
            yield from sampler.problems_of_scores()
        reference = spec.networks.get(REFERENCE)
        if self.kl and isinstance(reference, Backbone):
            if reference.trainable:
                message = f"network `{REFERENCE}` is trained, but the policy must be compared with a fixed network"
                yield Problem((), message, f"set `networks.{REFERENCE}.frozen: true`")
            elif reference.copy_of is None and reference.pretrained is None:
                message = f"network `{REFERENCE}` starts from random weights"
                mend = f"use `networks.{REFERENCE}: {{kind: like, copy_of: main, frozen: true}}`"
                yield Problem((), message, mend)

    @property
    def reward_settings(self) -> tuple[dict[str, Any], ...]:
        return tuple(reward.settings() for reward in self.rewards)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, sampler, conditions = networks["main"], spec.sampler, Conditions(spec, networks)
        assert isinstance(sampler, ScoringSampler)
        group, count = self.group, int(main.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        b = mb.function("loss.terms")
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        rolled = b.input("rolled", i64(B, group, count))
        reward = b.input("reward", f32(B, group))
        cond = {name: _each(b, x, group) for name, x in cond.items()}
        tokens = b.reshape(rolled, shape=(B * group, Named(count, "T")), out="tokens")
        null = conditions.null(b, cond) if self.guided else None
        log_p = sampler.token_log_prob(b, main, cond, null, tokens)
        log_p = b.reshape(log_p, shape=(B, group, count), out="log_p")
        before = b.input("before", f32(B, group, count)) if self.updates > 1 else b.stop_gradient(log_p, out="before")
        advantage = b.reshape(self._advantage(b, reward), shape=(B, group, 1), out="advantage")
        ratio = b.exp(b.op("sub", log_p, before), out="ratio")
        above = self.clip if self.clip_above is None else self.clip_above
        near = b.clamp(ratio, low=1 - self.clip, high=1 + above, out="near")
        ratio = ratio if self.most is None else b.minimum(ratio, self.most, out="ratio")
        gain = b.minimum(ratio * advantage, near * advantage, out="gain")
        clipped = b.cast(b.less(gain, ratio * advantage), to="f32", out="clipped")
        losses, values = b.neg(gain), [clipped]
        if self.kl:
            reference = sampler.token_log_prob(b, networks[REFERENCE], cond, null, tokens)
            reference = b.stop_gradient(b.reshape(reference, shape=(B, group, count)), out="of_reference")
            more = b.op("sub", reference, log_p, out="more")
            divergence = b.op("sub", b.exp(more) - more, 1.0, out="divergence")
            losses, values = losses + divergence * self.kl, [clipped, divergence]
        counts = counted(b, tokens, spec.data.modelled.end)
        if counts is not None:
            counts = b.reshape(counts, shape=(B, group, count), out="counts")
        loss = self._average(b, losses, counts, self.average, "loss")
        outs = [self._average(b, x, counts, "tokens") for x in values]
        b.output(loss, b.mean(reward, axes=(1,), keepdims=False, out="mean_reward"), *outs)
        b.finish("The loss of the policy, its reward, the share of clipped tokens and the divergence, per condition.")
        names = ("loss", "reward", "clipped", *(("divergence",) if self.kl else ()))
        (update,) = publish(mb, names, conditions.fields, conditions.drawn(), self.trained(spec))
        gives = ("rolled", "reward", *(("before",) if self.updates > 1 else ()))
        inputs = [i for name, c in conditions.items() for i in c.inputs(name, spec) if isinstance(i, GivenInput)]
        given: dict[tuple[str, str], str] = {(i.request, i.part): i.field for i in inputs}
        rollout = Rollout(ROLLOUT, self.group, gives, given)
        return (replace(update, rollout=rollout, repeats=self.updates),)

    def _average(self, b: Builder, x: Var, counts: Var | None, over: str, out: str = "") -> Var:
        """f32[B], the mean of x f32[B, G, T]; `counts` f32[B, G, T] is 1 for the tokens up to the end of a text."""
        if counts is None:
            return b.mean(x, axes=(1, 2), keepdims=False, out=out)
        x = b.mul(x, counts, out="counted")
        if over == "length":
            return b.mean(x, axes=(1, 2), keepdims=False, out=out)
        if over == "samples":
            each = b.div(b.sum(x, axes=(2,), keepdims=False), b.sum(counts, axes=(2,), keepdims=False), out="each")
            return b.mean(each, axes=(1,), keepdims=False, out=out)
        total = b.mean(b.sum(counts, axes=(1, 2), keepdims=False), axes=(0,), keepdims=False, out="count")
        return b.div(b.sum(x, axes=(1, 2), keepdims=False), total, out=out)

    def _advantage(self, b: Builder, reward: Var) -> Var:
        """f32[B, G]: rewards relative to their group."""
        centred = b.op("sub", reward, b.mean(reward, axes=(1,), keepdims=True, out="mean"), out="centred")
        if not self.normalise:
            return centred
        variance = b.sum(centred * centred, axes=(1,), keepdims=True) * (1 / (self.group - 1))
        return b.div(centred, b.sqrt(variance) + 1e-4, out="advantage")

    def rollout(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, drawn: Program) -> Program:
        """Adds entry `rollout`: the sampler's, which also returns the tokens as they are, and how likely they were."""
        sampler, conditions = spec.sampler, Conditions(spec, networks)
        assert isinstance(sampler, ScoringSampler)
        fn = mb.functions[mb.entries[drawn.entry]]
        b = mb.function(ROLLOUT)
        made = {v: b.input(v.name, v.type) for v in fn.inputs}
        cond = conditions.operands(b, {v.name: x for v, x in made.items()})
        for node in fn.nodes:
            copied = b.copied(node, [made[v] for v in node.inputs])
            made |= dict(zip(node.outputs, copied, strict=True))
        tokens = made[fn.outputs[0]]
        outputs = [OutputField("rolled")]
        b.output(tokens)
        if self.updates > 1:
            null = conditions.null(b, cond) if self.guided else None
            log_p = sampler.token_log_prob(b, networks["main"], cond, null, tokens)
            outputs.append(OutputField("before"))
            b.output(log_p)
        outputs.append(OutputField("samples", "tokens"))
        b.output(tokens)
        mb.entries[ROLLOUT] = b.finish("Samples that training learns from.")
        return Program(
            ROLLOUT,
            drawn.solver,
            drawn.steps,
            drawn.evaluations,
            drawn.sources,
            drawn.settings,
            name=ROLLOUT,
            outputs=tuple(outputs),
        )


def _each(b: Builder, x: Var, group: int) -> Var:
    """[N, ...] of an operand [B, ...]: each row as often as its group has samples."""
    rows = b.reshape(x, shape=(x.shape[0], 1, *x.shape[1:]))
    wide = b.broadcast_to(rows, shape=(x.shape[0], group, *x.shape[1:]))
    return b.reshape(wide, shape=(x.shape[0] * group, *x.shape[1:]), out=x.value.name)
