"""The files of a run on this machine: what may be written, claimed and replaced, and read."""
