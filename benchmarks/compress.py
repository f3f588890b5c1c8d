"""What compressing costs, beside its peers: time, error, memory, forward speed, start-up.

python benchmarks/compress.py                        # all rows, some minutes
python benchmarks/compress.py --quick                # smaller shapes, under two minutes
python benchmarks/compress.py --only btd,svd --device cuda --out result.json
"""

import copy
import os
import warnings
from collections.abc import Iterator
from statistics import mean
from typing import Any

# By default waiting threads spin, which stalls short operations on a busy machine. Now they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

# isort: split
import torch
from dense import NO_MINILM, base, both, skipped
from processes import BOTH, KEEP, help_time, memory
from side_by_side import Goal, Result, Setup, main, timed, turns
from torch import Tensor
from whole import earlier, language

from tlmtool import compress
from tlmtool.compression.candidates import select
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.measuring.counting import forward_flops
from tlmtool.measuring.profiling import forward_latency
from tlmtool.models.factorized import dense_weight
from tlmtool.models.surgery import modes


def weights_of(model: Any, sites: dict[str, str], device: str) -> list[Tensor]:
    return [dense_weight(model.base_model.get_submodule(s)).detach().to(device) for s in sites]


def off(weight: Tensor, reached: Tensor) -> float:
    return float((weight.double() - reached.double()).norm() / weight.double().norm())


def compared(case: str, errors: dict[str, float], who: str, peer: str, goal: Goal | None) -> Result:
    ratio, of = errors[who] / errors[peer], f"{who} / {peer}"
    return Result(case, f"{errors[who]:.6f}", f"{peer} {errors[peer]:.6f}", ratio, of, goal, errors)


def btd(setup: Setup) -> Iterator[Result]:
    """12 blocks of rank 8 of attention projections, beside 12 Tuckers of tensorly in turn"""
    for name, model in both(setup):
        if model is None:
            yield skipped(name, NO_MINILM)
            continue
        sites = select(model, ["attention"])
        weights = weights_of(model, sites, setup.device)
        blocks = BTD(rank=8, blocks=12, modes=modes(model, *next(iter(sites.items()))))
        size = len(weights) if setup.full else 2 if setup.quick else 4
        shape = "x".join(map(str, weights[0].shape))
        case = f"{name}, {size} of {len(weights)} {shape}"
        sample = weights[:: len(weights) // size][:size]
        yield from _beside_tensorly(case, blocks, sample, setup)
        if setup.device == "cuda":
            contenders = {
                "batched": lambda many, d=blocks: d.decompose_batch(torch.stack(many).double()),
                "one by one": lambda many, d=blocks: [d.decompose(w) for w in many],
            }
            seconds, _ = turns([weights], contenders, 3, setup.device)
            yield timed(f"{name}, all {len(weights)} at once", seconds, None, gain=True)


def _beside_tensorly(case: str, ours: BTD, sample: list[Tensor], setup: Setup) -> Iterator[Result]:
    try:
        import tensorly as tl
        from tensorly.decomposition import tucker
    except ImportError:
        yield skipped(case, "tensorly is missing")
        return

    def deflate(weight: Tensor) -> Tensor:
        """What is left of W after all blocks. Each is a Tucker of what the last one left."""
        rest, ranks = weight.double().reshape(*ours.modes, -1), [ours.rank] * 3
        for _ in range(ours.blocks):
            rest = rest - tl.tucker_to_tensor(tucker(rest, ranks, init="svd", n_iter_max=20))
        return rest

    def unfold(factors: dict[str, Tensor]) -> Tensor:
        return ours.reconstruct({k: f.double() for k, f in factors.items()})

    contenders = {"ours": ours.decompose, "rough": ours.rough().decompose, "tensorly": deflate}
    with tl.backend_context("pytorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, found = turns(sample, contenders, 2 if setup.quick else 3, setup.device, keep=True)
    near = {who: [unfold(f) for f in found[who]] for who in ("ours", "rough")}
    left = zip(sample, found["tensorly"], strict=True)
    near["tensorly"] = [w.double() - rest.flatten(0, 1) for w, rest in left]
    errors = {who: mean(map(off, sample, ws)) for who, ws in near.items()}
    for who, goals in (("ours", ((">=", 5), ("<=", 1))), ("rough", (None, None))):
        what = case if who == "ours" else "the same, as roughly as ranks are chosen"
        pair = {k: seconds[k] for k in (who, "tensorly")}
        yield timed(what, pair, goals[0], gain=True)
        yield compared("mean relative error", errors, who, "tensorly", goals[1])


def svd(setup: Setup) -> Iterator[Result]:
    """every attention and feed-forward matrix at keep 0.5, beside torch.linalg.svd cut to rank"""
    name, model = base(setup)
    weights = weights_of(model, select(model, BOTH.split(",")), setup.device)

    def kept(weight: Tensor) -> SVD:
        return SVD(rank=int(KEEP * weight.numel() / sum(weight.shape)))

    def truncated(weight: Tensor) -> dict[str, Tensor]:
        u, sigma, v = torch.linalg.svd(weight.double(), full_matrices=False)
        r = kept(weight).rank
        return {"left": (u[:, :r] * sigma[:r]).to(weight.dtype), "right": v[:r].to(weight.dtype)}

    contenders = {"ours": lambda w: kept(w).decompose(w), "torch": truncated}
    seconds, found = turns(weights, contenders, 2 if setup.quick else 3, setup.device, keep=True)
    yield timed(f"{name}, {len(weights)} matrices", seconds, ("<=", 0.6))
    errors = {
        who: mean(off(w, kept(w).reconstruct(f)) for w, f in zip(weights, factors, strict=True))
        for who, factors in found.items()
    }
    result = compared("mean relative error", errors, "ours", "torch", ("<=", 0.01))
    result.ratio, result.of = abs(errors["ours"] / errors["torch"] - 1), "|ours / torch - 1|"
    yield result


def forward(setup: Setup) -> Iterator[Result]:
    """a model at keep 0.5 by svd, beside the dense one: speedup over what its FLOPs promise"""
    for name, dense in both(setup):
        if dense is None:
            yield skipped(name, NO_MINILM)
            continue
        compressed = copy.deepcopy(dense.to(setup.device))
        compress(compressed, keep=KEEP, sites=BOTH, method="svd")
        pair = {"dense": dense.to(setup.dtype), "ours": compressed.to(setup.dtype)}
        for batch in (8, 1):
            runs = (9 if setup.quick else 15) * (1 if batch > 1 else 3)
            times = forward_latency(pair, 128, batch, runs)
            flops = {k: forward_flops(m, 128, batch)["total"] for k, m in pair.items()}
            speedup = times["dense"]["median"] / times["ours"]["median"]
            promise = flops["dense"] / flops["ours"]
            yield Result(
                f"{name}, {batch} x 128, {str(setup.dtype).removeprefix('torch.')}",
                f"{times['ours']['median']:.4g} ms",
                f"dense {times['dense']['median']:.4g} ms",
                speedup / promise,
                f"= {speedup:.2f} / {promise:.2f}",
                (">=", 0.8),
                {"ms": times, "flops": flops},
            )


ROWS = {"btd": btd, "svd": svd, "memory": memory, "forward": forward, "help": help_time}
ROWS |= {"language": language, "earlier": earlier}

if __name__ == "__main__":
    main(__doc__, ROWS)
