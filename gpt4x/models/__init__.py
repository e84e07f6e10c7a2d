"""Flax modules and nothing else: pure functions of (params, inputs, memory)."""
