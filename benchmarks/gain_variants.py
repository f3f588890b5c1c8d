"""The variants of over-parameterized training that gain.py compares."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """What is expanded and how it is trained.

    `strategy`: flags of `tlm finetune`. `rate`: a factor on the matched rate of the cores; in a
    dense variant a factor on the rate of every matrix that could be expanded. `gauge`: where the
    singular values go; balanced puts their roots into both ends. `moves`: all cores, units or ends
    only, or equal, where the first step of each core moves W as far. `until`: the share of steps
    after which W is merged and trained as dense.

    `update`: adam; muon, the orthogonalized momentum of each core as a matrix; scaled, ScaledGD
    before Adam, which multiplies gradients by the inverse Gram matrices of what stands left and
    right; or reset, a control that expands nothing and starts the moments of W again.
    """

    strategy: dict[str, Any] = field(default_factory=dict)
    rate: float = 1.0
    gauge: str = "balanced"
    moves: str = "all"
    update: str = "adam"
    until: float = 1.0


def expanded(rate: float = 1.0, gauge: str = "balanced", **more: Any) -> Variant:
    """All matrices from the first step on, unless `more` says otherwise."""
    own = {k: more.pop(k) for k in ("moves", "update", "until") if k in more}
    flags = {"strategy": "dynamic", "N": 6, "n": 6, "every": 1, **more}
    return Variant({k.replace("_", "-"): v for k, v in flags.items()}, rate, gauge, **own)


def attention(growth: float = 3.0, cores: int | None = None, **more: Any) -> Variant:
    """The 24 matrices of attention from the first step on, unless `more` says otherwise."""
    return expanded(growth=growth, cores=cores, **{"sites": "attention", **more})


VARIANTS: dict[str, Variant] = {
    "dense": Variant(),
    "attention": attention(),
    "attention-x2": attention(rate=2.0),
    "attention-even": attention(gauge="even"),
    "attention-svd": attention(method="svd"),
    "all-1.25": expanded(growth=1.25),
    "attention-cores19": attention(cores=19),
    "attention-left": attention(gauge="left"),
    "attention-middle": attention(cores=3, gauge="middle"),
    "attention-middle-units": attention(cores=3, gauge="middle", moves="units"),
    "attention-1.25": attention(1.25),
    "attention-1.25-muon-x0.3": attention(1.25, update="muon", rate=0.3),
    "attention-1.25-scaled": attention(1.25, update="scaled"),
    "attention-equal": attention(moves="equal"),
    "attention-units": attention(moves="units"),
    "attention-ends": attention(moves="ends"),
    "attention-half": attention(until=0.5),
    "attention-late": attention(every=75),
    "attention-n2-project": attention(N=6, n=2, every=15),
    "attention-n2-zero": attention(N=6, n=2, every=15, moments="zero"),
    "dense-n2-zero": attention(N=6, n=2, every=15, moments="zero", update="reset"),
    "attention-svd-n2-zero": attention(method="svd", N=6, n=2, every=15, moments="zero"),
    "dense-x2": Variant(rate=2.0),
    "all-svd": expanded(method="svd"),
    "ffn-1.25": expanded(growth=1.25, sites="ffn"),
    "attention-x4": attention(rate=4.0),
    "attention-x0.5": attention(rate=0.5),
    "attention-cores3": attention(cores=3),
    "attention-right": attention(gauge="right"),
    "attention-6": attention(6.0),
    "attention-N1": attention(N=1, n=1),
    "attention-N3": attention(N=3, n=1, every=15),
    "dense-x0.5": Variant(rate=0.5),
    "attention-1.25-muon-x0.5": attention(1.25, update="muon", rate=0.5),
    "all-3": expanded(),
}
