"""What tensor attention costs, beside softmax attention (SDPA) and each kernel's own reference.

python benchmarks/attention.py                  # all rows, some minutes
python benchmarks/attention.py --quick          # N up to 2048
python benchmarks/attention.py --warm           # each kernel as if measured alone
python benchmarks/attention.py --only encoder,causal --device cuda --dtype bfloat16

Each kernel takes q, k, v (B, H, N, D) and gives (B, N, F). SDPA gives (B, H, N, D), not yet in the
order that the output projection takes. The batch is 1. Threads wait as torch lets them: under
OMP_WAIT_POLICY=passive they wake too slowly for the short steps of the causal kernel. Freed memory
is kept, as in training: otherwise new pages cost as much as a pass of an encoder.
"""

from collections.abc import Iterator
from functools import partial
from statistics import median

import torch
from side_by_side import Result, Setup, main, timed, turns
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tlmtool.attention.base import Attention
from tlmtool.attention.dimensionwise import DimensionWise
from tlmtool.attention.multilinear import MultiLinear
from tlmtool.measuring.complexity import exponent
from tlmtool.measuring.passes import Work, one_pass, peak
from tlmtool.training.memory import keep

HEADS, WIDTH = 8, 64
LENGTHS = (512, 1024, 2048, 4096, 8192)
RUNS = 15  # timed forward passes; with five the median moved by up to a fifth
NAIVE = 1 << 29  # bytes; a reference with larger tensors is left out. At this size it takes seconds


def lengths(setup: Setup) -> tuple[int, ...]:
    return tuple(n for n in LENGTHS if not setup.quick or n <= 2048)


def drawn(setup: Setup, length: int, backward: bool = False) -> list[Tensor]:
    """q, k, v of this length, which take gradients where there is a backward pass."""
    torch.manual_seed(0)
    shape, where = (1, HEADS, length, WIDTH), {"device": setup.device, "dtype": setup.dtype}
    return [torch.randn(shape, **where, requires_grad=backward) for _ in range(3)]


def learned(kernel: Attention, setup: Setup, backward: bool) -> dict[str, Tensor]:
    made = kernel.initial(HEADS, WIDTH, HEADS * WIDTH)
    return {n: x.to(setup.device).requires_grad_(backward) for n, x in made.items()}


def against_softmax(
    setup: Setup, kernel: Attention, causal: bool, length: int, backward: bool
) -> dict[str, Work]:
    """The kernel, SDPA and, where it fits, the kernel's reference, all on the same q, k, v."""
    qkv, t = drawn(setup, length, backward), learned(kernel, setup, backward)

    def sdpa() -> Tensor:
        return scaled_dot_product_attention(*qkv, is_causal=causal)

    leaves = [*qkv, *t.values()]
    works = {
        kernel.name: one_pass(lambda: kernel.apply(*qkv, t, causal=causal), leaves, backward),
        "sdpa": one_pass(sdpa, qkv, backward),
    }
    copies = 8 if backward else 3  # of an N x D x D tensor of each head
    if copies * 4 * HEADS * length * WIDTH**2 <= NAIVE:
        naive = one_pass(lambda: kernel.naive(*qkv, t, causal=causal), leaves, backward)
        works["naive"] = naive
    return works


def compared(
    setup: Setup, kernel: Attention, causal: bool, what: str, goals: dict[int, float]
) -> Iterator[Result]:
    """A kernel beside SDPA at each length. `goals` {N: times faster} apply to the forward pass."""
    for backward in (False, True):
        for n in lengths(setup):
            works = against_softmax(setup, kernel, causal, n, backward)
            naive = works.pop("naive", None)
            runs = 2 if n > 4096 and backward else 3 if backward or setup.quick else RUNS
            runs = RUNS if setup.device == "cuda" else runs  # where passes are short
            seconds, _ = turns([None], works, runs, setup.device, warm=setup.warm)
            goal = (">=", goals[n]) if n in goals and not backward else None
            case = f"{what}, N = {n}" + (", with backward" if backward else "")
            yield timed(case, seconds, goal, gain=True)
            if naive:
                pair = {kernel.name: works[kernel.name], "naive": naive}
                seconds, _ = turns([None], pair, 1, setup.device)
                yield timed("  its reference", seconds, None, gain=True)


# --- dimension-wise ------------------------------------------------------------------------------


def encoder(setup: Setup) -> Iterator[Result]:
    """dimension-wise attention in an encoder against SDPA"""
    yield from compared(setup, DimensionWise(f="softmax"), False, "softmax f", {4096: 40})
    yield from compared(setup, DimensionWise(), False, "cosine", {4096: 25})
    yield from compared(setup, DimensionWise(kernels=8), False, "cosine, 8 kernels", {})


def causal(setup: Setup) -> Iterator[Result]:
    """dimension-wise attention in a decoder against causal SDPA"""
    goals = {4096: 3, 8192: 6}
    yield from compared(setup, DimensionWise(), True, "cosine", goals)
    yield from compared(setup, DimensionWise(f="scale"), True, "scale", goals)
    yield from compared(setup, DimensionWise(rank=1), True, "cosine, rank 1", {})


def memory(setup: Setup) -> Iterator[Result]:
    """memory of dimension-wise attention in a decoder as N grows"""
    kernel = DimensionWise()
    for backward in (False, True):
        taken = {}
        for n in lengths(setup):
            works = against_softmax(setup, kernel, True, n, backward)
            taken[n] = peak(works[kernel.name], setup.device)
        case = "cosine" + (", with backward" if backward else "")
        mib = ", ".join(f"{b / 2**20:.0f}" for b in taken.values())
        grown = exponent(list(taken), list(taken.values()))
        data = {"bytes": taken}
        yield Result(case, f"{mib} MiB", "", grown, "exponent in N", ("<=", 1.1), data)


# --- multilinear ---------------------------------------------------------------------------------


def full(setup: Setup) -> Iterator[Result]:
    """multilinear attention with a W^O for one length, beside its reference; N 256, R 40, E 512"""
    n, rank, features, runs = 256, 40, 512, 3 if setup.quick else 2 * RUNS
    for core, sees in (("diagonal", "both ways"), ("diagonal", "causal"), ("full", "both ways")):
        kernel = MultiLinear("full", core, length=n)
        torch.manual_seed(0)
        where = {"device": setup.device, "dtype": setup.dtype}
        qkv = [torch.randn(1, 1, n, rank, **where) for _ in range(3)]
        t = {k: x.to(setup.device) for k, x in kernel.initial(1, rank, features).items()}
        works = {
            name: one_pass(partial(way, *qkv, t, causal=sees == "causal"), [], False)
            for name, way in (("full", kernel.apply), ("naive", kernel.naive))
        }
        stated = core == "diagonal" and sees == "both ways"
        seconds, _ = turns([None], works, runs, setup.device)
        case = f"{core} core, {sees}"
        yield timed(case, seconds, (">=", 5) if stated else None, gain=True)
        ours, naive = (peak(work, setup.device) for work in works.values())
        mib = [f"{b / 2**20:.1f} MiB" for b in (ours, naive)]
        goal, data = ("<=", 0.05) if stated else None, {"bytes": [ours, naive]}
        yield Result(
            "  temporaries", mib[0], f"naive {mib[1]}", ours / naive, "full / naive", goal, data
        )


def relative(setup: Setup) -> Iterator[Result]:
    """time of multilinear attention of any length as N grows"""
    for kernel in (MultiLinear("decay"), MultiLinear("conv")):
        for causal, backward in ((True, False), (False, False), (True, True)):
            taken, of_softmax = {}, {}
            for n in lengths(setup):
                qkv, t = drawn(setup, n, backward), learned(kernel, setup, backward)
                ours = partial(kernel.apply, *qkv, t, causal=causal)
                sdpa = partial(scaled_dot_product_attention, *qkv, is_causal=causal)
                works = {
                    kernel.w_o: one_pass(ours, [*qkv, *t.values()], backward),
                    "sdpa": one_pass(sdpa, qkv, backward),
                }
                few = (setup.quick or backward) and setup.device == "cpu"
                runs = 3 if few else RUNS
                seconds, _ = turns([None], works, runs, setup.device)
                taken[n], of_softmax[n] = (median(s) for s in seconds.values())
            case = f"{kernel.w_o}, {'causal' if causal else 'both ways'}"
            case += ", with backward" if backward else ""
            goal = None if backward else ("<=", 1.1)
            grown, ends = exponent(list(taken), list(taken.values())), (min(taken), max(taken))
            data = {"seconds": taken, "sdpa": of_softmax}
            told = [" to ".join(f"{x[n]:.2g}" for n in ends) + " s" for x in (taken, of_softmax)]
            yield Result(case, told[0], f"sdpa {told[1]}", grown, "exponent in N", goal, data)


ROWS = {"encoder": encoder, "causal": causal, "memory": memory, "full": full, "relative": relative}

if __name__ == "__main__":
    keep()
    main(__doc__, ROWS)
