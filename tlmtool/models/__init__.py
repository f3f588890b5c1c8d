"""Families, surgery on their modules, and checkpoints of the result."""
