"""The programs of a tokenizer that another one decodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.kit import call
from latentc.components.parts import Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc.systems.titok.proxy_token import PROXY
from latentc_runtime.sources import Condition, ConditionSource


class ProxyAutoencode(Sampler):
    """Program `reconstruct` encodes samples `x`, predicts the likeliest tokens of network `proxy`, and lets that decode
    them; `encode` returns the codes."""

    kind: Literal["proxy_autoencode"]
    guidance: None = Field(None, description="always null: there is no guidance")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "proxy_autoencode"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "proxy_tokens"), Need(PROXY, "autoencode"))

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        return self.programs(mb, networks, spec)[0]

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        """Adds entries `reconstruct` and `encode`."""
        main, proxy, field = networks["main"], networks[PROXY], spec.data.fields["x"]
        given, made = Condition("x", "array", field.shape, "f32", field.axes), []
        for name, output in (("reconstruct", OutputField("reconstruction", "x")), ("encode", OutputField("codes"))):
            b = mb.function(name)
            x = b.input("x", main.methods["encode"].input("state").type)
            z = call(b, main, "encode", {}, state=x, out="codes")
            if name == "reconstruct":
                logits = call(b, main, "proxies", {}, state=z, out="logits")
                tokens = b.argmax(logits, axis=2, out="tokens")
                z = call(b, proxy, "decode", {}, state=tokens, out="reconstruction")
            b.output(z)
            what = "Encodes samples" if name == "encode" else "Encodes samples and decodes their predicted tokens"
            mb.entries[name] = b.finish(f"{what}.")
            sources = {"x": ConditionSource("x")}
            made.append(Program(name, self.kind, 1, 1, sources, name=name, outputs=(output,), conditions=(given,)))
        return tuple(made)
