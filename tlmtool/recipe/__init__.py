"""The recipe of a run: its schema, where values come from, their rules, and the checked result."""
