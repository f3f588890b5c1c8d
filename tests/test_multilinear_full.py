"""Guards multi-linear attention with a W^O of one length: which way it computes, at what cost."""

import pytest
import torch
from test_multilinear import KERNELS, LENGTH, drawn

from tlmtool.attention import _full
from tlmtool.attention.multilinear import MultiLinear


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n, rank", [(24, 2), (4, 12)], ids=["through", "dense"])
@pytest.mark.parametrize("core", ["diagonal", "full"])
def test_both_associations_of_full_are_right(n, rank, core, causal):
    kernel = MultiLinear("full", core, length=24)
    assert _full.through_is_cheaper(n, 2 * rank, 16) == (rank == 2)
    qkv, tensors = drawn(kernel, 2, n, rank)
    fast, slow = (way(*qkv, tensors, causal=causal) for way in (kernel.apply, kernel.naive))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


def test_cheaper_association_is_taken():
    def counted(n, rank, features, causal):
        kernel = MultiLinear("full", length=n)
        flops = kernel.flops(1, 1, n, rank, features, causal)
        pairs = n * n
        return flops, 2 * n * pairs * (rank + features), 2 * (pairs + n) * rank * features

    for n, rank in ((8, 40), (256, 40), (40, 40), (36, 40)):
        flops, dense, through = counted(n, rank, 64, False)
        assert flops == min(dense, through)
        flops, dense, through = counted(n, rank, 64, True)
        assert flops <= dense
        assert n < 256 or flops < 0.5 * dense
    assert counted(256, 40, 512, False)[1] > 6.5 * counted(256, 40, 512, False)[0]


def test_causal_chunks_cost_what_the_model_says():
    n, rank, features = 50, 6, 8
    chunk = _full.chunk_of(n, rank, features)
    assert chunk == _full.CHUNK and _full.chunk_of(n, 400, 800) == n
    multiplied = 0
    for s in range(0, n, chunk):
        e = min(s + chunk, n)
        multiplied += (e - s) * (e * e - s * s) * (rank + features)
        multiplied += (s > 0) * (e - s) * rank * features
        multiplied += (e < n) * (e * e - s * s) * rank * features
    assert MultiLinear("full", length=n).flops(1, 1, n, rank, features, True) == 2 * multiplied


def test_stream_of_full_holds_no_more_than_its_length():
    kernel = KERNELS[0]
    qkv, tensors = drawn(kernel, 2, LENGTH)
    _, state = kernel.stream(*qkv, tensors)
    assert state["k"].shape == (2, 2, LENGTH, 5)
    with pytest.raises(ValueError, match=f"{LENGTH + 1} tokens are more than length {LENGTH}"):
        kernel.stream(*(x[:, :, :1] for x in qkv), tensors, state)


@pytest.mark.parametrize("way", ["apply", "naive"])
def test_longer_than_full_was_built_for(way):
    kernel = KERNELS[0]
    qkv, tensors = drawn(kernel, 1, LENGTH + 1)
    with pytest.raises(ValueError, match=r"41 tokens are more than length 40, .*decay or conv"):
        getattr(kernel, way)(*qkv, tensors)
