"""gpt4x: GPT-4-style models on JAX, built on Transformer-XL and trained from gin files."""

__version__ = "0.1.0"
