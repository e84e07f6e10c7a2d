"""Training: the state, the step and the loop, with optimizers, metrics and hardware peaks."""
