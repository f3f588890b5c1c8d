"""What one token costs a model that generates, on one thread: dense, factorized, or narrower.

python benchmarks/decode.py                             # all rows, some minutes
python benchmarks/decode.py --quick                     # smaller shapes
python benchmarks/decode.py --only model --dtype bfloat16 --out result.json

Weights are random: speed does not depend on them. On one thread of a CPU the times are seconds of
the processor, which other work on the machine does not advance. With `--threads 2` or on a GPU they
are those of a clock.
"""

import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from side_by_side import Goal, Result, Setup, main, turns
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

from tlmtool.compression.candidates import select
from tlmtool.decompositions import NAMES, Decomposition, named
from tlmtool.decompositions.svd import SVD
from tlmtool.models.factorized import FactorizedLinear, shape
from tlmtool.models.surgery import hold

KEEP, NARROW = 0.6, 717  # of 1536 inner features, with which the whole model is as small
BEFORE, STEPS = 64, 8  # tokens in the cache, and tokens that are timed
SHAPES = ((576, 96), (576, 184), (1536, 208), (1536, 576), (2048, 512))  # of a factor (O, R)
APART = 100e6  # bytes of matrices used in turn: fewer would stay in the caches of a processor
TURNS = 21


def config(setup: Setup, inner: int = 1536) -> LlamaConfig:
    """The shape of smollm2 (135 M), or for --quick of its first two layers and a small table."""
    return LlamaConfig(
        hidden_size=576,
        intermediate_size=inner,
        num_hidden_layers=2 if setup.quick else 30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=2048 if setup.quick else 49152,
        tie_word_embeddings=True,
    )


def made(setup: Setup, inner: int = 1536, method: str = "") -> Any:
    """A model of random weights; with a method its attention and ffn are factors of random numbers,
    each of the largest rank that keeps 0.6 of the matrix."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(setup, inner), dtype=setup.dtype)
    for site in select(model, ["attention", "ffn"]) if method else ():
        o, i = shape(model.base_model.get_submodule(site))
        found = within(method, o, i)
        hold(model, site, found, drawn(found, o, i, setup.dtype))
    return model.to(setup.device).eval()


def within(method: str, o: int, i: int) -> Decomposition:
    """The largest rank whose factors hold at most 0.6 of W (O, I); above 16 a multiple of 8."""
    kind = named(method)
    more = {"blocks": 8} if method == "btd" else {}
    for rank in [*range(min(o, i) // 8 * 8, 16, -8), *range(16, 0, -1)]:
        try:
            if kind(rank, **more).parameters(o, i) <= KEEP * o * i:
                return kind(rank, **more)
        except ValueError:  # above the full rank of this decomposition
            continue
    raise SystemExit(f"{method}: no rank keeps {KEEP} of a weight ({o}, {i})")


def drawn(found: Decomposition, o: int, i: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return {k: 0.05 * torch.randn(size, dtype=dtype) for k, size in found.shapes(o, i).items()}


def clocked(setup: Setup, contenders: dict[str, Callable], items: list[Any]) -> dict[str, float]:
    """The median of each contender, seconds over all items."""
    alone = setup.device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    runs = 7 if setup.quick else TURNS
    with torch.no_grad():
        seconds, _ = turns(items, contenders, runs, setup.device, warm=True, clock=clock)
    return {name: median(each) for name, each in seconds.items()}


def steps(model: Any) -> Callable:
    """Tokens one by one after a text, with a cache of keys and values, as `generate` does it."""
    text = torch.randint(0, model.config.vocab_size, (1, BEFORE), device=model.device)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(text, past_key_values=cache)

    def work(_: Any = None) -> None:
        for k in range(STEPS):
            model(text[:, k : k + 1], past_key_values=cache)
        cache.crop(-STEPS)

    return work


def model(setup: Setup) -> Iterator[Result]:
    """one token of a model: the speedup over the dense one, over what the parameters promise"""
    models = {"dense": made(setup), "svd": made(setup, method="svd")}
    models["narrower ffn"] = made(setup, NARROW)
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}
    ms = clocked(setup, {name: steps(m) for name, m in models.items()}, [None])
    ms = {name: 1e3 * each / STEPS for name, each in ms.items()}
    for name, goal in (("svd", (">=", 0.85)), ("narrower ffn", None)):
        gain, promise = ms["dense"] / ms[name], sizes["dense"] / sizes[name]
        yield Result(
            f"{name}, {sizes[name] / 1e6:.1f} M of {sizes['dense'] / 1e6:.1f} M",
            f"{ms[name]:.3g} ms",
            f"dense {ms['dense']:.3g} ms",
            gain / promise,
            f"= {gain:.2f} / {promise:.2f}",
            goal,
            {"ms": ms, "parameters": sizes},
        )


def beside(case: str, ours: float, peer: str, theirs: float, goal: Goal | None = None) -> Result:
    """Two times in seconds, as microseconds."""
    us = {"ours": 1e6 * ours, peer: 1e6 * theirs}
    return Result(case, f"{us['ours']:.3g} us", f"{peer} {us[peer]:.3g} us", ours / theirs,
                  f"ours / {peer}", goal, us)  # fmt: skip


def call(setup: Setup) -> Iterator[Result]:
    """what the modules cost: a call with matrices so small that their products take no time"""
    dense = nn.Linear(8, 8, bias=False)
    ours = FactorizedLinear(SVD(4), dense, SVD(4).decompose(dense.weight))
    ours, dense = (m.to(setup.device, setup.dtype).eval() for m in (ours, dense))
    right, left = (link.weight for link in ours.links)
    x = torch.randn(1, 1, 8, device=setup.device, dtype=setup.dtype)
    count = 1000
    contenders = {
        "ours": lambda _: [ours(x) for _ in range(count)],
        "two products": lambda _: [linear(linear(x, right), left) for _ in range(count)],
        "parts": lambda _: [ours.weight(x) for _ in range(count)],
        "nn.Linear": lambda _: [dense(x) for _ in range(count)],
        "its product": lambda _: [linear(x, dense.weight) for _ in range(count)],
    }
    s = {name: each / count for name, each in clocked(setup, contenders, [None]).items()}
    yield beside("factorized linear", s["ours"], "two products", s["two products"])
    yield beside("the same, part by part", s["parts"], "two products", s["two products"])
    yield beside("nn.Linear", s["nn.Linear"], "its product", s["its product"])
    more = s["ours"] - s["two products"]
    usual = s["nn.Linear"] - s["its product"]
    yield beside("factorized, above its products", more, "nn.Linear", usual)


def order(setup: Setup) -> Iterator[Result]:
    """one token times a factor (O, R) that lies in memory in columns, beside one in rows"""
    for o, r in SHAPES:
        count = 2 if setup.quick else int(APART / (o * r * setup.dtype.itemsize))
        where = {"device": setup.device, "dtype": setup.dtype}
        rows = list(torch.randn(count, o, r, **where))
        columns = [w.t() for w in torch.randn(count, r, o, **where)]
        x = torch.randn(1, 1, r, **where)
        contenders = {
            "ours": lambda _, x=x, ws=columns: [linear(x, w) for w in ws],
            "rows": lambda _, x=x, ws=rows: [linear(x, w) for w in ws],
        }
        s = clocked(setup, contenders, [None])
        yield beside(f"({o}, {r})", s["ours"] / count, "rows", s["rows"] / count)


def methods(setup: Setup) -> Iterator[Result]:
    """one token of a linear (1536, 576) at keep 0.6 by each method, beside the dense one"""
    o, i, count = 1536, 576, 2 if setup.quick else 30
    x = torch.randn(1, 1, i, device=setup.device, dtype=setup.dtype)
    dense = [nn.Linear(i, o, bias=False) for _ in range(count)]
    held = {"dense": dense}
    for method in NAMES:
        found = within(method, o, i)
        held[method] = [
            FactorizedLinear(found, d, drawn(found, o, i, torch.float32)) for d in dense
        ]
    for modules in held.values():
        nn.ModuleList(modules).to(setup.device, setup.dtype).eval()
    contenders = {name: lambda _, ms=ms: [m(x) for m in ms] for name, ms in held.items()}
    s = clocked(setup, contenders, [None])
    for method in NAMES:
        size = within(method, o, i).parameters(o, i) / (o * i)
        yield beside(f"{method}, keeps {size:.2f}", s[method] / count, "dense", s["dense"] / count)


ROWS = {"model": model, "call": call, "order": order, "methods": methods}

if __name__ == "__main__":
    if "--threads" not in " ".join(sys.argv):
        torch.set_num_threads(1)
    main(__doc__, ROWS)
