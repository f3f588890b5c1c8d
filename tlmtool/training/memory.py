"""Memory that one step frees is kept for the next."""

import ctypes
import os
import platform

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of glibc's malloc.h
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")


def keep() -> None:
    """Let this process hold on to what it frees, until it ends.

    glibc gives large blocks back to the kernel as soon as they are freed, and the next step pays
    for each of their pages again: up to half of a step where activations are large beside the work
    on them. Costs some memory, as kept blocks do not always fit. Does nothing without glibc, nor
    where the user has chosen (MALLOC_..., GLIBC_TUNABLES, another allocator by LD_PRELOAD).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(SETTINGS) for name in os.environ):
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_MAX, 0)
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
