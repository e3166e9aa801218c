"""Guidance of samplers: the settings that all share, and the kinds of terms that denoising samplers may combine."""
