"""Other programs: upstream t5x, and weights in other formats."""
