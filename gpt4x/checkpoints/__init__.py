"""Checkpoints: saving, restoring, and what damage they survive."""
