"""The search for the fewest steps of a sampler at a quality budget, on the target's engine."""
