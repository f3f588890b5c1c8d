"""Training: plain, over-parameterized by MPO, taught by another model; studies of these."""
