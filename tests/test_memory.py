"""What training frees is kept for its next step."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from tlmtool.training import memory

memory.keep()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(1 << 24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**more):
    """Pages asked of the kernel for twenty equal tensors, one after the other."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=plain | more, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_a_freed_tensor_is_not_asked_of_the_kernel_again_unless_the_user_chose():
    assert faults() * 2 < faults(MALLOC_MMAP_MAX_="65536")
