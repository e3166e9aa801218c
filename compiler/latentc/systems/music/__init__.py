"""Controllable Music Production with Diffusion Models and Guidance Gradients (Levy et al. 2023, arXiv:2311.00613).

Gradients of the error of what is known guide a model of audio: it continues a clip, fills a gap, plays a part anew, or
joins two clips. The networks are those of Moûsai (Schneider et al. 2023, arXiv:2301.11757).

Specs: specs/audio/music.yaml, specs/audio/music_latent.yaml, specs/first_stages/music_autoencoder.yaml.
Tests: tests/systems/music.
Rows in docs/systems.yaml: music, music_latent, music_autoencoder.
"""

COMPONENTS = {
    "guidance/scores": {"reconstruction": "reconstruction"},
    "networks": {"audio_autoencoder": "audio_autoencoder", "audio_unet": "audio_unet"},
    "programs": {"audio_edit": "audio_edit"},
}
