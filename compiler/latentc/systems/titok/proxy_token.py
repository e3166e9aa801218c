"""The first stage of TiTok's training: predicting the tokens of another tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.objectives._common import noise_inputs, token_losses
from latentc.components.parts import Refusal, Spec
from latentc.ir.builder import ModuleBuilder

PROXY = "proxy"
"""The network whose tokens are predicted."""


class ProxyToken(Objective):
    """Cross-entropy of the tokens that network `proxy` has for the image, plus the penalty on the own codes (TiTok,
    Yu et al. 2024, arXiv:2406.07550).

    `proxy` is a trained tokenizer and stays as it is.
    """

    kind: Literal["proxy_token"]
    weight: float = Field(1.0, ge=0, description="weight of the bottleneck's penalty")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "proxy_token"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "proxy_tokens"), Need(PROXY, "autoencode"))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, proxy = networks["main"], networks[PROXY]
        method, of_proxy = main.methods["regularized_proxies"], proxy.methods["encode"].outputs[0]
        _, count, codes = method.output("logits").type.shape
        wanted = (int(count), int(codes))  # type: ignore[arg-type]
        given = (int(of_proxy.type.shape[1]) if of_proxy.type.rank == 2 else 0, of_proxy.values)  # type: ignore[arg-type]
        if wanted != given:
            has = f"{given[0]} of {given[1]} codes" if given[1] else "no tokens"
            message = f"`main` predicts {wanted[0]} tokens of {wanted[1]} codes, but `{PROXY}` has {has}"
            raise Refusal(message, "change `proxies` and `decoder_patch` of `main`")
        b = mb.function("loss")
        x = b.input("x", method.input("state").type)
        noise, draws = noise_inputs(b, method)
        tokens = b.stop_gradient(call(b, proxy, "encode", {}, state=x, out="tokens"), out="tokens")
        logits, penalty = call(b, main, "regularized_proxies", {}, state=x, noise=noise, out="logits penalty")
        losses = token_losses(b, logits, tokens)
        error = b.mean(losses, axes=(0, 1), keepdims=False, out="cross_entropy")
        penalty = b.mean(penalty, axes=(0,), keepdims=False, out="penalty")
        b.output(b.add(error, penalty * self.weight, out="loss"), error, penalty)
        mb.entries["loss"] = b.finish("The loss, the cross-entropy of the proxy tokens and the penalty on the codes.")
        return (Update("loss", ("main",), ("x",), draws, ("loss", "cross_entropy", "penalty")),)
