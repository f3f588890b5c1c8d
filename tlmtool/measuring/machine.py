"""What this machine computes in a second, measured in a moment: the rates behind a forecast."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tlmtool.measuring.passes import synchronize

MOST = 5e9  # FLOPs of one timed product; more are steadier, and take longer to probe
SHAPES = 3  # of weights, the most frequent ones, that are timed
LARGEST = 512  # of the matrices whose eigenvectors are timed; the time grows with the third power
RUNS, PATIENCE = 5, 0.25  # of one kind of work: timed runs, and seconds after which no more start
SMALL = 64  # tiny operations that are timed together


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second; a multiply-add is 2 FLOPs."""

    forward: float  # FLOPs of activations times weights, in the dtype of the model
    attention: float  # FLOPs of softmax attention, in the dtype of the model
    products: float  # FLOPs of x^T x over tokens, in float32
    exact: float  # FLOPs of products in float64
    eigen: float  # n^3 of an eigendecomposition of (n, n) in float64
    numbers: float  # numbers that elementwise operations make, in the dtype of the model
    calls: float  # operations on next to nothing


@dataclass(frozen=True)
class Probed:
    """What a model will compute: the shapes to time.

    `weights`: {(O, I): how many}; `heads` (H, D) of its attention; `length` N of a text, `tokens`
    of a batch.
    """

    weights: dict[tuple[int, int], int]
    heads: tuple[int, int]
    length: int
    tokens: int
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"


@torch.no_grad()
def rates(probed: Probed, clock: Callable[[], float] = time.perf_counter) -> Rates:
    """The rates of this machine on these shapes. It takes about two seconds and no weights."""
    common = {"dtype": probed.dtype, "device": probed.device}
    frequent = sorted(probed.weights, key=lambda s: -probed.weights[s] * s[0] * s[1])[:SHAPES]
    o, i = frequent[0]
    rows = min(probed.tokens, max(16, int(MOST / (2 * o * i))))
    forward, flops = [], 0.0
    for out, width in frequent:
        x, w = torch.randn(rows, width, **common), torch.randn(out, width, **common)
        forward.append(lambda x=x, w=w: x @ w.T)
        flops += 2.0 * rows * out * width
    n = min(LARGEST, o, i)
    square = torch.randn(n, n, dtype=torch.float64, device=probed.device)
    x = torch.randn(rows, i, **common)
    single = x.float()
    heads, width = probed.heads
    length = min(probed.length, probed.tokens)
    batch = max(1, rows // length)
    q, k, v = (torch.randn(batch, heads, length, width, **common) for _ in range(3))
    tiny = torch.zeros(1, **common)
    symmetric = square @ square.T

    def timed(works: Iterable[Callable[[], Any]]) -> float:
        return _seconds([*works], clock, probed.device)

    return Rates(
        forward=flops / timed(forward),
        attention=4.0
        * batch
        * heads
        * length**2
        * width
        / timed([lambda: scaled_dot_product_attention(q, k, v)]),
        products=2.0 * rows * i**2 / timed([lambda: single.T @ single]),
        exact=2.0 * n**3 / timed([lambda: square @ square]),
        eigen=1.0 * n**3 / timed([lambda: torch.linalg.eigh(symmetric)]),
        numbers=2.0 * rows * i / timed([lambda: torch.exp(x) * x]),
        calls=SMALL / timed([lambda: tiny + 1] * SMALL),
    )


def _seconds(
    works: list[Callable[[], Any]], clock: Callable[[], float], device: torch.device | str
) -> float:
    """The median time of all works together, after a first run that is not timed."""
    times: list[float] = []
    start = None
    for turn in range(-1, RUNS):
        synchronize(device)
        before = clock()
        start = before if start is None else start
        for work in works:
            work()
        synchronize(device)
        after = clock()
        if turn >= 0:
            times.append(after - before)
            if after - start > PATIENCE:
                break
    return max(median(times), 1e-9)
