"""Tasks and metrics, one row each; only the standard library is imported here."""
