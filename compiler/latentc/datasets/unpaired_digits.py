"""Two classes of scikit-learn's digits, without pairs."""

from typing import Any

from latentc.datasets.arrays import Arrays
from latentc.datasets.digits import open_dataset as open_digits
from latentc.datasets.unpaired import Unpaired


def open_dataset(settings: dict[str, Any]) -> Unpaired:
    """Images of the digit `target` as `x`, and of the digit `source` as `image`."""
    fields = {"x": settings["fields"]["x"], "y": {"shape": [], "dtype": "i64", "classes": 10, "medium": "array"}}
    every = open_digits({**settings, "fields": fields}).arrays
    sets = ((settings["target"], "x"), (settings["source"], "image"))
    chosen = (
        Arrays({"x": every["x"][every["y"] == of]}, {"x": settings["fields"].get(name, fields["x"])})
        for of, name in sets
    )
    return Unpaired(*chosen)
