"""Learning from rewards: what a model writes itself, and what that is worth."""
