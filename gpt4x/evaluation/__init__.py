"""What a model is worth: its likelihood of text, and a task's own metrics."""
