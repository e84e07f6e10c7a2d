"""Images, audio and video as tokens of the one vocabulary, and back."""
