"""What a compression needs to know before it swaps modules: input statistics, and ranks."""
