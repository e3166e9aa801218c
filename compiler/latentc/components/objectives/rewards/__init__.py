"""What scores the samples of rollouts: training projects call it, the compiler never does."""
