"""How much memory a training step takes, and that what it frees is kept for the next one."""

import ctypes
import os
import platform

from torch import nn

from tlmtool.models.factorized import shape
from tlmtool.models.surgery import sites

ACTIVATIONS = 2**29  # bytes that a forward pass on a CPU keeps for the backward pass, roughly; with
# more, a step takes more memory and not less time
MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep() -> None:
    """Make this process keep the memory that it frees, until it ends.

    glibc gives large blocks back to the kernel as soon as they are freed, and the next step pays
    for each of their pages again. That takes up to half of a step where activations are large
    beside the work on them. Kept blocks do not always fit, so that this costs some memory. Does
    nothing without glibc, or where the user has chosen an allocator or its settings (MALLOC_...,
    GLIBC_TUNABLES, LD_PRELOAD).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(SETTINGS) for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def tokens_at_once(model: nn.Module) -> int:
    """The tokens whose activations fit into `ACTIVATIONS`, if each linear keeps its input and its
    output, as float32."""
    linears = (site for site, role in sites(model).items() if role != "embedding")
    widths = sum(sum(shape(model.base_model.get_submodule(site))) for site in linears)
    return max(1, ACTIVATIONS // (4 * max(1, widths)))
