"""Settings, data, checkpoints and the inputs of a sampler, for train.py and sample.py."""
