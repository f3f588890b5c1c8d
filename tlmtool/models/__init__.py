"""Families of models, factorized modules in them, and checkpoints on disk."""
