"""Module → readable PyTorch text: the standalone training project of a spec. Imports no torch."""

from latentc.emit.model import model_source
from latentc.emit.project import project_files, project_from_lowered

__all__ = ["model_source", "project_files", "project_from_lowered"]
