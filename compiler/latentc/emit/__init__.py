"""Module → readable PyTorch text: the standalone training project of a spec. Imports no torch."""
