"""What a compression will take, counted before it starts: seconds of each stage, and memory.

The work is counted from the shapes of the model and the text. What this machine does in a second is
measured (`measuring.machine`). The constants say how often a stage runs over the text, and what it
does with each matrix. They were set by measuring runs, and are to be corrected in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from tlmtool.measuring.costing import Body, Passes, Text
from tlmtool.measuring.logits import LOGITS
from tlmtool.measuring.machine import Rates
from tlmtool.measuring.perplexity import AT_ONCE
from tlmtool.models.factorized import shape
from tlmtool.recipe.compression import Compression

PLANNING = ("measuring inputs", "measuring sensitivity", "planning", "choosing decompositions")
PLAN = 16_384  # tokens that the plan is measured on


class Work(NamedTuple):
    """What a stage does: passes over the model, and products of inputs or gradients for each token.

    `dense` and `reduced`: forward passes of the dense model, and of the model as it is compressed;
    `inputs`: I x I products of a group, `outputs`: O x O products of a site; `fronts`: how often
    each group makes the passes run through the blocks that are done.
    """

    dense: float = 0.0
    reduced: float = 0.0
    inputs: float = 0.0
    outputs: float = 0.0
    fronts: float = 0.0


# x^T x is symmetric, and 0.6 of its FLOPs are computed. Backward goes to inputs alone, so that it
# takes as long as forward.
INPUTS = Work(dense=1.0, inputs=0.6, fronts=0.3)
GRADIENTS = Work(dense=2.0, outputs=0.6, fronts=0.3)
LOCKSTEP = Work(dense=1.0, reduced=2.8, inputs=1.6, fronts=1.3)
ONCE = Work(dense=1.0, inputs=0.6, fronts=0.3)  # with --fit once
FRONT = 15  # operations for each block that a pass finds done and skips
ROOT = 2.0  # times that a Cholesky factor takes for its FLOPs, compared with a product
VALUES = 0.4  # time of eigenvalues alone, of that with eigenvectors
METHODS = {"svd": 1.0, "auto": 1.5, "btd": 12.0, "tucker": 6.0, "mpo": 3.0, "cp": 40.0}  # time to
# factorize a matrix, compared with svd
TRAINED = 4.0  # forward passes of a step of --recover: one of the teacher, three of the model
READ, WRITTEN = 12.0, 8.0  # numbers made for each byte / 4 that is loaded, and that is saved
SQUARES = 6  # float64 matrices of the largest site that are held at once
LOGIT_COPIES = 3  # of the logits that are held at once
WIDE = 8  # numbers that a pass holds at once for each token, in widths of the hidden state


@dataclass(frozen=True)
class Room:
    """Bytes in use before the run, and the most that it takes for weights and for activations."""

    used: int = 0
    weights: float = inf
    activations: float = inf


NOTHING = Text(0, 0)


@dataclass(frozen=True)
class Texts:
    """What the run reads: to calibrate (nothing with --calibration none), to measure the quality
    on, to score on, and to recover on, over all steps. `samples`: whether prompts are continued;
    `predicted`: share of the tokens whose loss is measured."""

    calibration: Text = NOTHING
    held: Text = NOTHING
    scored: Text = NOTHING
    learned: Text = NOTHING
    samples: bool = False
    predicted: float = 1.0


@dataclass(frozen=True)
class Forecast:
    """The seconds of each stage, in order, as its progress names it; and the most bytes in use."""

    stages: tuple[tuple[str, float], ...]
    bytes: int

    @property
    def seconds(self) -> float:
        """Those of all stages."""
        return sum(seconds for _, seconds in self.stages)

    def going_on(self, done: float, planned: bool) -> "Forecast":
        """That of a run that goes on: with its plan, if it is `planned`, and with this share of its
        sites done."""
        left = {"factorizing": 1.0 - done} | (dict.fromkeys(PLANNING, 0.0) if planned else {})
        stages = ((name, seconds * left.get(name, 1.0)) for name, seconds in self.stages)
        return Forecast(tuple(stage for stage in stages if stage[1] > 0), self.bytes)


def forecast(
    model: Any,
    body: Body,
    roles: Mapping[str, str],
    wanted: Compression,
    texts: Texts,
    share: float,
    rates: Rates,
    room: Room,
) -> Forecast:
    """The forecast of a run. `model` may be without weights, and `body` is what it costs; `roles`:
    {chosen site: role}; `share`: of the parameters of these sites that will be kept."""
    passes, shapes = Passes(body, rates), _Shapes(model, roles)
    weighed, sequential = bool(texts.calibration.tokens), wanted.fit == "sequential"
    plan, method = texts.calibration.cut(PLAN), wanted.method or "auto"
    numbers = body.bytes / 4 / rates.numbers
    stages = [("loading", READ * numbers)]
    ends = []
    for when, left in (("before", 1.0), ("after", share)):
        samples = passes.samples(left) if texts.samples else 0.0
        found = [(f"measuring {when}", passes.loss(texts.held, left, texts.predicted) + samples)]
        ends.append([*found, ("scoring", passes.forward(texts.scored, left))])
    stages += ends[0]
    if wanted.rank is None:
        planned = shapes.spectra(rates, weighed, weighed and sequential)
        if weighed:
            stages.append(("measuring inputs", shapes.work(INPUTS, passes, plan, share)))
        if weighed and sequential:
            stages.append(("measuring sensitivity", shapes.work(GRADIENTS, passes, plan, share)))
        stages.append(("planning", planned))
    else:
        method = wanted.method or "btd"
    fitted = shapes.factors(rates, method, weighed, weighed and sequential)
    if weighed:
        work = LOCKSTEP if sequential else ONCE
        fitted += shapes.work(work, passes, texts.calibration, share)
    stages.append(("factorizing", fitted))
    stages.append(("recovering", TRAINED * passes.forward(texts.learned, share)))
    stages += [*ends[1], ("saving", WRITTEN * numbers)]
    return Forecast(
        tuple((name, seconds) for name, seconds in stages if seconds > 0),
        _bytes(body, shapes, texts, share, room),
    )


def _bytes(body: Body, shapes: "_Shapes", texts: Texts, share: float, room: Room) -> int:
    """The most bytes in use at once: while sites are fitted, or while a loss is measured."""
    tokens, width = texts.calibration.tokens, body.width
    activations = min(room.activations, 4 * tokens * (shapes.read + 2 * width))
    factors = (
        share * 4 * shapes.size if room.weights >= body.bytes else 0.0
    )  # else they are written
    fitted = activations + SQUARES * 8 * shapes.largest + factors
    logits = LOGIT_COPIES * 4 * LOGITS if body.rows else 0
    measured = logits + WIDE * 4 * min(texts.held.tokens, AT_ONCE) * width
    teacher = body.bytes if texts.learned.tokens else 0
    return int(room.used + min(room.weights, body.bytes) + teacher + max(fitted, measured))


class _Shapes:
    """The chosen sites of a model, as a plan and a fit have to compute with them."""

    def __init__(self, model: Any, roles: Mapping[str, str]):
        shapes = {s: shape(model.base_model.get_submodule(s)) for s in roles}
        self.tables = [shapes[s] for s in roles if roles[s] == "embedding"]
        linears = {s: each for s, each in shapes.items() if roles[s] != "embedding"}
        self.linears, alike = [*linears.values()], {"gate": "up"}
        alike |= dict.fromkeys(("query", "key", "value"), "in")
        groups = dict[tuple[str, str], int]()  # {sites that read one input: its width}
        for site, (_, i) in linears.items():
            parent, _, name = site.rpartition(".")
            groups[parent, alike.get(roles[site], name)] = i
        blocks = {parent.rpartition(".")[0] for parent, _ in groups}
        self.groups, self.read = len(groups), sum(groups.values()) // max(len(blocks), 1) * 2
        self.inputs = sum(2.0 * i * i for i in groups.values())  # FLOPs of a token
        self.outputs = sum(2.0 * o * o for o, _ in self.linears)
        self.size = sum(o * i for o, i in shapes.values())
        self.largest = max((max(o, i) * i for o, i in self.linears), default=0)

    def work(self, work: Work, passes: Passes, text: Text, share: float) -> float:
        """The seconds of a stage over a text."""
        seconds = work.dense * passes.forward(text) + work.reduced * passes.forward(text, share)
        products = work.inputs * self.inputs + work.outputs * self.outputs
        fronts = work.fronts * text.batches * self.groups * passes.body.blocks * FRONT
        rates = passes.rates
        return seconds + text.tokens * products / rates.products + fronts / rates.calls

    def spectra(self, rates: Rates, weighed: bool, sensitive: bool) -> float:
        """The seconds of the spectra of all sites."""
        seconds = sum(_gram(o, i, rates, VALUES) for o, i in self.linears)
        for o, i in self.linears:
            flops = (ROOT * i**3 / 3 + 2.0 * o * i * i) * weighed
            flops += (ROOT * o**3 / 3 + 2.0 * o * o * i) * sensitive
            seconds += flops / rates.exact
        return seconds + sum(_gram(o, i, rates, VALUES) for o, i in self.tables)

    def factors(self, rates: Rates, method: str, weighed: bool, sequential: bool) -> float:
        """The seconds of all targets, of their factors and of the errors of these."""
        seconds = sum(METHODS.get(method, 1.0) * _gram(o, i, rates) for o, i in self.linears)
        for o, i in self.linears:
            times = weighed + sequential  # for the metric, and for the target
            seconds += times * (ROOT * i**3 / 3 + 4.0 * o * i * i) / rates.exact
        return seconds + 2 * sum(_gram(o, i, rates) for o, i in self.tables)


def _gram(o: int, i: int, rates: Rates, eigen: float = 1.0) -> float:
    """The seconds of the eigenvectors of the smaller Gram matrix of (O, I); of their part."""
    least, most = min(o, i), max(o, i)
    return 2.0 * least**2 * most / rates.exact + eigen * least**3 / rates.eigen
