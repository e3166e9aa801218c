"""Checkpoints and pipelines of others, as specs; and specs as pipelines of diffusers."""

from latentc.interchange.export import Exported, export_diffusers
from latentc.interchange.imported import Imported, import_source

__all__ = ["Exported", "Imported", "export_diffusers", "import_source"]
