"""The class `Update` of objective.py: the fields that the updates of a project set, and no others."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from latentc.emit.text import docstring

_ALWAYS = """\
    loss: Callable[..., Tensor | tuple[Tensor, ...]]
    networks: tuple[str, ...]
    trained: tuple[str, ...]
    batch: tuple[str, ...]
    draws: Callable[[int, torch.Generator], dict[str, Tensor]]
    metrics: tuple[str, ...]
"""
_OPTIONAL = {
    "renamed": ("tuple[tuple[str, str], ...]", "()"),
    "takes_round": ("bool", "False"),
    "takes_step": ("bool", "False"),
    "differentiates": ("bool", "False"),
    "partial": ("bool", "False"),
    "start": ("int", "0"),
    "every": ("int", "1"),
    "span": ("int", "1"),
    "rests": ("bool", "False"),
    "reference": ("int", "1"),
    "climbs": ("int", "0"),
}
"""{field: (type, default)}"""
_TIMES = ("start", "every", "span", "rests")
_SAYS: Mapping[str, str] = {
    "differentiates": "`differentiates`: the loss contains gradients with respect to network inputs.",
    "partial": "`partial`: the loss leaves some network outputs unused, so some weights get no gradient.",
    "reference": "The loss reads all data samples and trains on the first of every `reference`.",
    "climbs": "`climbs`: the number of the loss's output that SAM climbs; 0: the loss itself.",
}
_REGIONS = {"takes_round": "round", "takes_step": "training_step"} | dict.fromkeys(_TIMES, "timed")


def update_class(used: Collection[str]) -> str:
    """The definition of `Update` with the optional fields `used`."""
    takes = [
        "the networks in `networks`",
        "the data's arrays in `batch`",
        "the random inputs from `draws(size, generator)`",
    ]
    takes += ["the round number if `takes_round`"] if "takes_round" in used else []
    takes += ["the training step if `takes_step`"] if "takes_step" in used else []
    says = [f"The loss takes {', '.join(takes[:-1])} and {takes[-1]}."]
    renamed = "`renamed`: (input, argument of the loss) if Python does not allow the input's name."
    says += [renamed] if "renamed" in used else []
    says += ["It returns the value to minimise and the other `metrics`."]
    says += [text for name, text in _SAYS.items() if name in used]
    first = "One optimiser step that minimises `loss` over the weights of the networks in `trained`."
    fields = [f"    {n}: {kind} = {default}\n" for n, (kind, default) in _OPTIONAL.items() if n in used]
    doc = "\n".join(docstring(f"{first}\n\n{' '.join(says)}", "    "))
    return f"@dataclass(frozen=True)\nclass Update:\n{doc}\n\n{_ALWAYS}{''.join(fields)}{_due(used)}"


def _due(used: Collection[str]) -> str:
    """The method that says when an update runs, if there are updates that do not run in every step."""
    if not {*_TIMES} & {*used}:
        return ""
    turn = "step % self.every < self.span" if "span" in used else "step % self.every == 0"
    parts = ["step >= self.start"] if "start" in used else []
    parts += [turn] if {"every", "span"} & {*used} else []
    when = " and ".join(parts) or "True"
    when = f"({when}) != self.rests" if "rests" in used else when
    lines = ["", "    def due(self, step: int) -> bool:", '        """True if the update runs in this step."""']
    return "\n".join([*lines, f"        return {when}"]) + "\n"


def regions_of(used: Collection[str]) -> set[str]:
    """The regions of train.py for updates with these fields."""
    return {_REGIONS.get(name, name) for name in used} | ({"alone"} if "reference" not in used else set())
