"""What a training step costs when its matrices are over-parameterized, beside dense training.

python benchmarks/overparam.py                  # all rows, some minutes
python benchmarks/overparam.py --quick          # smaller shapes
python benchmarks/overparam.py --only step,papers --device cuda --dtype bfloat16
"""

import copy
import os
from collections.abc import Callable, Iterator
from functools import reduce
from statistics import median
from typing import Any

# By default waiting threads spin, which stalls short operations on a busy machine. Now they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

# isort: split
import torch
from side_by_side import Result, Setup, main, turns
from torch import Tensor, nn
from transformers import AutoModel, BertConfig

from tlmtool.decompositions.mpo import MPO
from tlmtool.measuring.counting import example_of, forward_flops
from tlmtool.measuring.profiling import forward_latency
from tlmtool.models.factorized import dense_weight, shape
from tlmtool.models.surgery import sites
from tlmtool.training.expansion import Expansion, multiply_out
from tlmtool.training.growth import expansion
from tlmtool.training.optimizing import Optimizer

GROWTHS = ((1.25, None), (3.0, 3), (3.0, None), (3.0, 19), (6.0, None))
MICRO, LENGTH, TURNS = 8, 128, 3


def base(setup: Setup) -> Any:
    """Two layers of BERT-base, or for --quick of half its width; random weights, no dropout."""
    torch.manual_seed(0)
    size = {"hidden_size": 384, "intermediate_size": 1536} if setup.quick else {}
    config = BertConfig(
        num_hidden_layers=2,
        vocab_size=1000,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **size,
    )
    return AutoModel.from_config(config, add_pooling_layer=False).to(setup.device)


def linears(model: Any) -> list[str]:
    return [site for site, role in sites(model).items() if role != "embedding"]


def step_of(model: Any, optimizer: Optimizer, micros: int, setup: Setup) -> Callable:
    """One step of training: micro-batches of 8 x 128, the gradient, AdamW, each W rebuilt."""
    inputs = example_of(model, LENGTH, MICRO, 0)
    inputs.pop("use_cache", None)

    def step(_: Any = None) -> None:
        for _ in range(micros):
            with torch.autocast(setup.device, setup.dtype, setup.dtype != torch.float32):
                hidden = model(**inputs)[0]
            (hidden.float().square().mean() / micros).backward()
        optimizer.step()

    return step


def trained(setup: Setup, growth: float | None, cores: int | None, micros: int) -> tuple:
    """(a step, the model, its expansions). With a growth every linear layer is expanded."""
    model = base(setup)
    weights = {s: model.get_submodule(s).weight for s in linears(model)}
    optimizer = Optimizer(model, weights, 1e-5, 0.0, "constant", 0, 100)
    step = step_of(model, optimizer, micros, setup)
    made = []
    if growth:
        for site in weights:
            module = model.get_submodule(site)
            made.append(Expansion(site, module, expansion(*shape(module), growth, cores)))
            optimizer.swap(made[-1], 1.0)
    return step, model, made


def training_flops(model: Any, micros: int) -> int:
    return 3 * micros * forward_flops(model, LENGTH, MICRO)["total"]


def shaped(mpo: MPO) -> str:
    (first, *_, last), k = mpo.modes[0], mpo.order - 2
    return f"[{first},1^{k},{last}]"


def step(setup: Setup) -> Iterator[Result]:
    """a step of training with every linear expanded, against the same step of the dense model"""
    for micros in (2, 4):
        dense, model, _ = trained(setup, None, None, micros)
        base_flops = training_flops(model, micros)
        for growth, cores in GROWTHS:
            ours, _, made = trained(setup, growth, cores, micros)
            grown = sum(c.numel() for e in made for c in e.cores.values())
            met = grown / sum(e.weight.numel() for e in made)
            more = sum(e.decomposition.rebuild_flops(*e.weight.shape) for e in made)
            predicted = 1 + 3 * more / base_flops
            seconds, _ = turns([None], {"ours": ours, "dense": dense}, TURNS, setup.device)
            mine, theirs = (median(s) for s in seconds.values())
            case = f"{MICRO * micros} x {LENGTH}, growth {met:.2f} {shaped(made[0].decomposition)}"
            ratio, data = mine / theirs, {"seconds": seconds, "predicted": predicted}
            against = f"dense {theirs:.3g} s"
            bound = ("<=", 1.5) if (growth, cores, micros) == (3.0, None, 4) else None
            yield Result(case, f"{mine:.3g} s", against, ratio, "ours / dense", bound, data)
            of = f"of the predicted {predicted:.3f}"
            yield Result("  the same", "", "", ratio / predicted, of, ("<=", 1.15), data)


class Chained(nn.Module):
    """As the papers' code does it: each forward pass rebuilds W by tensordot from left to right."""

    def __init__(self, dense: nn.Linear, mpo: MPO):
        super().__init__()
        cores = mpo.decompose(dense_weight(dense))
        self.cores = nn.ParameterList(cores.values())
        self.sizes, self.bias = (dense.out_features, dense.in_features), dense.bias

    def forward(self, x: Tensor) -> Tensor:
        w = reduce(lambda left, core: torch.tensordot(left, core, 1), self.cores)
        k = len(self.cores)  # (1, i1, j1, i2, j2, ..., 1)
        order = [0, *range(1, 2 * k, 2), *range(2, 2 * k + 1, 2), 2 * k + 1]
        return nn.functional.linear(x, w.permute(order).reshape(self.sizes), self.bias)


def papers(setup: Setup) -> Iterator[Result]:
    """a step of 4 micro-batches against rebuilding by tensordot from left to right in each"""
    for growth, cores in ((3.0, None), (3.0, 3)):
        ours, model, made = trained(setup, growth, cores, 4)
        peer = base(setup)
        for each in made:
            parent, _, name = each.site.rpartition(".")
            chained = Chained(peer.get_submodule(each.site), each.decomposition)
            setattr(peer.get_submodule(parent), name, chained)
        theirs = step_of(peer, Optimizer(peer, {}, 1e-5, 0.0, "constant", 0, 100), 4, setup)
        inputs = example_of(model, LENGTH, 1, 0)
        with torch.no_grad():
            apart = float((model(**inputs)[0] - peer(**inputs)[0]).abs().max())
        assert apart < 1e-3, f"the peer computes something else: {apart}"
        seconds, _ = turns([None], {"ours": ours, "papers": theirs}, TURNS, setup.device)
        mine, other = (median(s) for s in seconds.values())
        case = f"32 x {LENGTH}, growth {growth:g} {shaped(made[0].decomposition)}"
        ratio, of = other / mine, "papers / ours"
        data = {"seconds": seconds}
        yield Result(case, f"{mine:.3g} s", f"papers {other:.3g} s", ratio, of, (">=", 1.5), data)


def inference(setup: Setup) -> Iterator[Result]:
    """the forward pass of a merged model against the dense one"""
    _, model, made = trained(setup, 3.0, None, 1)
    dense = copy.deepcopy(model)
    multiply_out(model, made)
    times = forward_latency({"merged": model, "dense": dense}, LENGTH, MICRO, 21)
    ours, theirs = times["merged"]["median"], times["dense"]["median"]
    case, of = f"{MICRO} x {LENGTH}", "merged / dense"
    data, distance = {"times": times}, abs(ours / theirs - 1)
    yield Result(case, f"{ours:.1f} ms", f"dense {theirs:.1f} ms", ours / theirs, of, None, data)
    yield Result("  the same", "", "", distance, "away from 1", ("<=", 0.03), data)


ROWS = {"step": step, "papers": papers, "inference": inference}

if __name__ == "__main__":
    main(__doc__, ROWS)
