"""`python -m tlmtool` is `tlm`, so that torchrun and accelerate can launch it."""

from tlmtool.cli import main

main()
