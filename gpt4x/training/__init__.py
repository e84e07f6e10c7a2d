"""Training: the state, the step and the loop, and what they need: optimizers, checkpoints, metrics, hardware peaks."""
