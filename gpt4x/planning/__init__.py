"""`gpt4x plan`: what a training step needs on a topology that is not at hand, by formula and by the real TPU compiler."""
