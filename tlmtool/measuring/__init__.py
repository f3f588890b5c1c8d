"""Honest numbers: what a model is worth, how large it is, what it costs."""
