"""Terms of the adversarial objective: each is part of the loss of the discriminator, the generator or both."""
