"""Honest numbers: quality, size, cost."""
