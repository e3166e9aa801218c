"""Conditions found by searching an index of embeddings, in training and by requests.

No field of the data holds them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, encoding_networks
from latentc.components.condition import Condition, GivenInput, Searched, searches
from latentc.components.conditions.array import request_of
from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import call
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested
from latentc_runtime.sources import ConditionSource


class Retrieved(Condition):
    """Embeddings that training finds by the one of each sample in data field `field`; arrays of any rank are flattened.

    Requests pass embeddings, or what to search for in the index next to the bundle.
    """

    metric: Literal["cosine", "l2"] = Field("cosine", description="similarity by which the training data are searched")
    queries: tuple[str, ...] = Field(
        (),
        max_length=16,
        description="frozen networks of the spec that encode what a request may search for: images, or texts",
    )

    @property
    @abstractmethod
    def requested(self) -> int:
        """How many embeddings a request passes per sample."""

    def size(self, name: str, spec: Spec) -> int:
        """D, the size of an embedding."""
        field, size = spec.data.fields.get(self.field or name), 1
        for length in field.shape if field is not None else ():
            size *= length
        return size

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        field = spec.data.fields.get(self.field or name)
        if field is None or field.classes is not None:
            arrays = [n for n, one in spec.data.fields.items() if one.classes is None]
            what = f"data field `{self.field or name}` holds no embeddings" if self.field else "no field is named"
            mend = f"name an array in `conditioning.{name}.field`: {', '.join(arrays) or 'the data has none'}"
            yield Problem(("field",), f"neighbours are found by an embedding of each sample, but {what}", mend)
        if name in spec.data.fields:
            message = f"condition `{name}` is found by search, but the data also has a field of that name"
            yield Problem((), message, "rename the condition, or read the field with `{kind: features}`")
        for i, network in enumerate(self.queries):
            if network in self.queries[:i]:
                yield Problem(("queries", i), f"network `{network}` is named twice", "leave it out once")
            else:
                yield from self._problems_of_query(("queries", i), network, name, spec)

    def _problems_of_query(self, place: tuple[Any, ...], network: str, name: str, spec: Spec) -> Iterator[Problem]:
        """Reasons why a network cannot encode queries."""
        able, size = encoding_networks(spec), self.size(name, spec)
        if (encoder := able.get(network)) is None:
            what = "encodes nothing" if network in spec.networks else "does not exist"
            yield Problem(place, f"network `{network}` {what}", f"networks that encode: {', '.join(able) or 'none'}")
            return
        ports, of = encoder.encoding(spec)
        asking = [other for other in spec.conditions.values() if isinstance(other, Retrieved)]
        named = {n for other in asking for n in other.queries if n != network}
        others = [other for n in named for other in _encoders(n, spec)]
        read = [*spec.conditions, *(other.encoding(spec)[0][0].name for other in others)]
        if len(ports) != 1 or encoder.encodes_masked:
            message, mend = f"network `{network}` reads more than one field", "set its `masked: false`"
            yield Problem(place, message, mend if encoder.encodes_masked else "use one that reads one")
        elif of.rank != 2 or int(of.shape[1]) != size:  # type: ignore[arg-type]
            message = f"network `{network}` returns {list(of.shape[1:])} per sample, but an entry has {size}"
            yield Problem(place, message, f"let it return a vector of {size} numbers")
        elif encoder.trainable:
            mend = f"set `networks.{network}.pretrained: FILE`"
            yield Problem(place, f"network `{network}` encodes only queries, so nothing trains it", mend)
        elif ports[0].name in read:
            message = f"in a request `{ports[0].name}` would be ambiguous"
            yield Problem(place, message, f"let `{network}` read a field that no condition and no other query is")

    @abstractmethod
    def search(self, field: str) -> Searched:
        """The search in training by the embeddings in data field `field`."""

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        found = replace(self.search(self.field or name), queries=self.queries)
        return (GivenInput(name, f32(B, self.requested, self.size(name, spec)), name, name, searched=found),)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        shape = (self.requested, self.size(name, spec))
        queries = tuple(encoder.encoding(spec)[0][0].name for n in self.queries for encoder in _encoders(n, spec))
        return (Requested(name, "array", shape, "f32", ("neighbour", "feature"), retrieved=True, queries=queries),)


def query_programs(mb: ModuleBuilder, spec: Spec, networks: Mapping[str, Network]) -> list[Program]:
    """Entries `query_FIELD`, one per network that encodes queries: the embedding f32[B, D] of a field."""
    made = []
    named = dict.fromkeys(network for search in searches(spec).values() for network in search.queries)
    for network, encoder in ((n, e) for n in named for e in _encoders(n, spec)):
        (port,) = encoder.encoding(spec)[0]
        entry = f"query_{port.name}"
        b = mb.function(entry)
        b.output(call(b, networks[network], "encode", {}, state=b.input(port.name, port.type), out="query"))
        mb.entries[entry] = b.finish(f"The embedding by `{network}` that neighbours are searched for.")
        given, sources = request_of(port, spec), {port.name: ConditionSource(port.name)}
        output = (OutputField("query"),)
        made.append(Program(entry, "query", 1, 1, sources, name=entry, outputs=output, conditions=(given,)))
    return made


def _encoders(network: str, spec: Spec) -> list[Backbone]:
    """The network if it encodes; otherwise none."""
    return [encoder for name, encoder in encoding_networks(spec).items() if name == network]
