"""Files and data sets become texts, examples and batches of tokens."""
