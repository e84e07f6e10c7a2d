"""`gpt4x plan`: what a training step needs on TPUs that are not at hand, by formula and by the real compiler."""
