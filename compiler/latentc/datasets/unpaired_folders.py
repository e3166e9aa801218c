"""Images in two folders, without pairs."""

from pathlib import Path
from typing import Any

from latentc.datasets.image_folder import open_pictures
from latentc.datasets.pictures import Images, open_images
from latentc.datasets.unpaired import Unpaired


def open_dataset(settings: dict[str, Any]) -> Unpaired:
    """Images in the folder `target` as `x`, and in the folder `source` as `image`. Raises ValueError."""
    return Unpaired(_images(settings, "target", "x"), _images(settings, "source", "image"))


def _images(settings: dict[str, Any], folder: str, name: str) -> Images:
    path = str(Path(settings["path"]) / settings[folder])
    field = settings["fields"][name]
    own = {"path": path, "classes": 0, "fields": {"x": field}, "augment": 0}
    return open_images({**settings, **own}, open_pictures)
