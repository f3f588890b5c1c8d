"""The peak of memory: what a block adds to what was in use, and the most of the whole process."""

import pytest
import torch
from transformers import BertConfig, BertModel

from tlmtool.measuring.profiling import PeakMemory, activation_peak, peak_rss

WIDE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE |= {"intermediate_size": 64}


def test_peak_memory_sees_what_is_freed_again():
    """Each peak is the least of three: what else the process does can only add to one."""
    held, empty = [], []
    for _ in range(3):
        with PeakMemory() as peak:
            block = torch.ones(64 * 2**20, dtype=torch.uint8)
            del block
        if peak.bytes is None:
            pytest.skip("this system does not let the peak be reset")
        held.append(peak.bytes)
        with PeakMemory() as second:
            pass
        empty.append(second.bytes)
    assert 60 * 2**20 < min(held) < 80 * 2**20
    assert min(empty) < 8 * 2**20  # the peak before is forgotten
    wide = BertModel(BertConfig(**WIDE, attn_implementation="eager"))
    scores = 8 * 4 * 512 * 512 * 4  # bytes of one (B, H, N, N)
    peaks = [activation_peak(wide, 512, 8) for _ in range(3)]
    assert scores < min(peaks) < 6 * scores


def test_the_peak_of_the_process_survives_a_reset_and_holds_what_was_in_use():
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    before = peak_rss()
    del block
    if before is None:
        pytest.skip("this system does not say how much memory was in use")
    with PeakMemory() as peak:
        pass
    assert peak_rss() >= before > 64 * 2**20
    assert peak.bytes is None or peak.bytes < before
