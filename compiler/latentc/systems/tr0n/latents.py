"""Features of samples by a frozen network, as a condition of the generator's latent.

Symbols: B batch, E size of the condition, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

from latentc.components.backbone import Backbone, provided
from latentc.components.contract import Need, Network
from latentc.components.kit.calls import call
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var


def classifies(network: Network) -> bool:
    """True if it predicts a class, False if it encodes."""
    return "classify" in network.provides


def observer_need(name: str, spec: Spec) -> Need:
    """Capabilities that the observing network needs."""
    return Need(name, "classify" if "classify" in provided(spec, name) else "encode")


def observer_problems(name: str, spec: Spec) -> Iterator[Problem]:
    """Refuses a trained generator or observer, and an observer whose features the translator is not conditioned on."""
    for network in ("main", name):
        of = spec.networks.get(network)
        if isinstance(of, Backbone) and of.trainable:
            message = f"network `{network}` is not frozen"
            yield Problem((), message, f"name its checkpoint in `networks.{network}.pretrained`")
    main, translator, eye = (spec.networks.get(n) for n in ("main", "translator", name))
    if isinstance(main, Backbone) and main.takes(spec):
        message = f"the translator predicts a latent alone, but `main` is conditioned on {', '.join(main.takes(spec))}"
        yield Problem((), message, "set `networks.main.conditions: []`")
    if isinstance(translator, Backbone) and isinstance(eye, Backbone):
        cond = translator.takes(spec).items()
        wanted = [n for name, c in cond for port in c.ports(name, spec)[:1] for n in port.type.shape[1:]]
        seen: list[object] = []  # sizes of what it sees in a sample
        if "classify" in eye.PROVIDES:
            seen = [spec.data.classes]
        elif "encode" in eye.PROVIDES:
            seen = list(eye.encoding(spec)[1].shape[1:])
        if seen and wanted and seen != wanted:
            message = f"the translator takes {wanted[0]} numbers, but `{name}` sees {seen} in a sample"
            yield Problem((), message, "let `conditioning` have a vector of that size, or a class as `one_hot`")


def observed(b: Builder, network: Network, images: Var, out: str) -> Var:
    """Its encoding f32[B, E], or the class that it predicts, one-hot f32[B, K]."""
    if not classifies(network):
        return call(b, network, "encode", {}, state=images, out=out)
    logits = call(b, network, "forward", {}, state=images, out="logits")
    most = b.reshape(b.argmax(logits, axis=1), shape=(logits.shape[0], 1), out="most")
    return b.cast(b.equal(most, b.arange(logits.shape[1])), to="f32", out=out)


def energy(b: Builder, network: Network, images: Var, wanted: Var) -> Var:
    """f32[B]: how far images are from a condition: the cross-entropy, or minus the cosine of the encodings."""
    if classifies(network):
        logits = call(b, network, "forward", {}, state=images, out="logits")
        return b.neg(b.sum(b.log_softmax(logits, axis=1) * wanted, axes=(1,), keepdims=False), out="energy")
    seen = call(b, network, "encode", {}, state=images, out="seen")
    along, *squares = (
        b.sum(x * y, axes=(1,), keepdims=False) for x, y in ((seen, wanted), (seen, seen), (wanted,) * 2)
    )
    lengths = b.mul(*(b.maximum(b.sqrt(s), 1e-8) for s in squares), out="lengths")
    return b.neg(b.div(along, lengths), out="energy")
