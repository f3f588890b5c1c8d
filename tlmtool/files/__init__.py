"""Files on this machine: what a run may read, write, claim and replace."""
