"""Does a bundle compute what its spec says? The oracle, the emitted PyTorch and the engine on the same inputs."""
