"""What a compression will take, counted before it starts: seconds of each stage, and memory.

The work is counted from the shapes of the model and the text. What this machine does in a second is
measured (`measuring.machine`). The constants say how often a stage runs over the text, and what it
does with each matrix. They were set by measuring runs, and are to be corrected in the same way.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from tlmtool.compression.matrices import Matrices
from tlmtool.compression.statistics import PLAN
from tlmtool.measuring.costing import Body, Passes, Text
from tlmtool.measuring.logits import LOGITS
from tlmtool.measuring.machine import Rates
from tlmtool.measuring.perplexity import AT_ONCE
from tlmtool.recipe.compression import Compression
from tlmtool.recipe.rules import NARROW

PLANNING = ("measuring inputs", "measuring sensitivity", "planning", "choosing decompositions")


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


# x^T x is symmetric, and 0.6 of its FLOPs are computed; for inputs, rows are also copied and
# summed. Backward goes to inputs alone, so that it takes as long as forward.
INPUTS = Work(dense=1.0, inputs=1.5, fronts=0.3)
GRADIENTS = Work(dense=2.0, outputs=0.6, fronts=0.3)
LOCKSTEP = Work(dense=1.0, reduced=2.3, inputs=1.6, fronts=1.3)
ONCE = Work(dense=1.0, inputs=1.5, fronts=0.3)  # with --fit once
FRONT = 15  # operations for each block that a pass finds done and skips
MOST = 1.3  # less `keep`: about the share of the sites that are factorized; others stay dense
TRAINED = 4.0  # forward passes of a step of --recover: one of the teacher, three of the model
IMPORTED = 250_000  # operations before weights are read: modules of the model are imported
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
        left = {"factorizing": 1.0 - done}
        stages = ((name, seconds * left.get(name, 1.0)) for name, seconds in self.stages)
        found = Forecast(tuple(stage for stage in stages if stage[1] > 0), self.bytes)
        return found.without(PLANNING) if planned else found

    def without(self, names: Iterable[str]) -> "Forecast":
        """That of a run that has no stages of these names."""
        dropped = set(names)
        return Forecast(tuple(s for s in self.stages if s[0] not in dropped), self.bytes)


def forecast(
    model: Any,
    body: Body,
    roles: Mapping[str, str],
    wanted: Compression,
    texts: Texts,
    share: float,
    rates: Rates,
    room: Room,
    bits: int | None = None,
) -> Forecast:
    """The forecast of a run. `model` may be without weights, and `body` is what it costs; `roles`:
    {chosen site: role}; `share`: of the parameters of these sites that will be kept; `bits`: of the
    stored weights."""
    passes, shapes = Passes(body, rates), Matrices(model, roles)
    weighed, sequential = bool(texts.calibration.tokens), wanted.fit == "sequential"
    method = wanted.method or "auto"
    numbers = body.bytes / 4 / rates.numbers
    stages = [("loading", READ * numbers + IMPORTED / rates.calls)]
    stages += _measured("before", passes, texts, 1.0)
    if room.weights >= body.bytes:  # a streamed model is not rounded to be measured
        stages.append(("measuring int8", passes.loss(texts.held, 1.0, texts.predicted)))
    if wanted.rank is None:
        stages += _planned(shapes, passes, texts, wanted, share)
        if method == "auto" and bits is None:  # in few bits there is one decomposition
            stages.append(("choosing decompositions", shapes.choices(rates)))
    else:
        method = wanted.method or "btd"
    greedy = wanted.share is not None and wanted.allocate == "greedy"
    part = 0.0 if method == NARROW else min(1.0, MOST - share) if greedy else 1.0
    fitted = shapes.factors(rates, method, weighed, weighed and sequential, part)
    fitted += shapes.rankings(rates) * (weighed and method == NARROW)
    if weighed:
        work = LOCKSTEP if sequential else ONCE
        fitted += _work(work, passes, shapes, texts.calibration, share)
    stages += [("factorizing", fitted), *_recovered(passes, texts, share)]
    stages += [*_measured("after", passes, texts, share), ("saving", WRITTEN * numbers)]
    return Forecast(
        tuple((name, seconds) for name, seconds in stages if seconds > 0),
        _bytes(body, shapes, texts, share, room),
    )


def _work(work: Work, passes: Passes, shapes: Matrices, text: Text, share: float) -> float:
    """The seconds of a stage over a text."""
    seconds = work.dense * passes.forward(text) + work.reduced * passes.forward(text, share)
    products = work.inputs * shapes.inputs + work.outputs * shapes.outputs
    fronts = work.fronts * text.batches * shapes.groups * passes.body.blocks * FRONT
    rates = passes.rates
    return seconds + text.tokens * products / rates.products + fronts / rates.calls


def _measured(when: str, passes: Passes, texts: Texts, share: float) -> list[tuple[str, float]]:
    """The quality and the score of the model. After a recovery, its loss has been measured."""
    known = when == "after" and texts.learned.tokens and passes.body.rows
    loss = 0.0 if known else passes.loss(texts.held, share, texts.predicted)
    samples = passes.samples(share) if texts.samples else 0.0
    scored = passes.forward(texts.scored, share)
    return [(f"measuring {when}", loss + samples), ("scoring", scored)]


def _planned(
    shapes: Matrices, passes: Passes, texts: Texts, wanted: Compression, share: float
) -> list[tuple[str, float]]:
    """What the plan is measured on, and what each site loses at each rank or width."""
    text = texts.calibration.cut(PLAN)
    weighed = bool(text.tokens)
    sensitive = weighed and wanted.fit == "sequential"
    ranked = wanted.method == NARROW or (
        wanted.method in (None, "auto") and sensitive and wanted.share is not None
    )
    losses = shapes.rankings(passes.rates) if ranked and weighed else 0.0
    if wanted.method != NARROW:
        losses += shapes.spectra(passes.rates, weighed, sensitive)
    return [
        ("measuring inputs", _work(INPUTS, passes, shapes, text, share) * weighed),
        ("measuring sensitivity", _work(GRADIENTS, passes, shapes, text, share) * sensitive),
        ("planning", losses),
    ]


def _recovered(passes: Passes, texts: Texts, share: float) -> list[tuple[str, float]]:
    """The training of --recover, and the losses of a language model around it."""
    loss = passes.loss(texts.held, share, texts.predicted) if passes.body.rows else 0.0
    loss *= bool(texts.learned.tokens)
    return [
        ("measuring compressed", loss),
        ("recovering", TRAINED * passes.loss(texts.learned, share)),
        ("measuring recovered", loss),
    ]


def _bytes(body: Body, shapes: Matrices, texts: Texts, share: float, room: Room) -> int:
    """The most bytes in use at once: while sites are fitted, or while a loss is measured."""
    tokens, width = texts.calibration.tokens, body.width
    activations = min(room.activations, 4 * tokens * (shapes.read + 2 * width))
    factors = (
        share * 4 * shapes.size if room.weights >= body.bytes else 0.0
    )  # else they are written
    fitted = activations + SQUARES * 8 * shapes.largest + factors
    logits = LOGIT_COPIES * 4 * LOGITS if body.rows else 0
    measured = logits + WIDE * 4 * min(texts.held.tokens, AT_ONCE) * width
    measured += body.bytes if room.weights >= body.bytes else 0  # rounded to 8 bits beside its own
    teacher = body.bytes if texts.learned.tokens else 0
    return int(room.used + min(room.weights, body.bytes) + teacher + max(fitted, measured))
