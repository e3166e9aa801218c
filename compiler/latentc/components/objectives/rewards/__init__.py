"""Scores of the samples of rollouts: training projects call it, the compiler never does."""
