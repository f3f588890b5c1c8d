"""The seconds of passes of a model over text, from its shapes and the rates of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tlmtool.measuring.counting import OTHER, SCORES, count_bytes
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.machine import Probed, Rates
from tlmtool.models.factorized import shape
from tlmtool.models.surgery import head_count, sites

# They were set by measuring runs. A larger one lengthens the forecast of its part.
TOUCHED = 2.0  # numbers that elementwise operations make, of those that linears read and write
LOGITS = 6.0  # numbers made for each logit of a loss
CALLS = 120  # operations of a block, however small its batch: the time of Python is in them
SAMPLED, STEPS, PROMPTS = 2500, 32, 3  # tokens that the samples run over, in so many steps
SLOWER = 2.0  # times that such short steps take for their FLOPs, compared with whole batches


@dataclass(frozen=True)
class Text:
    """Text that a model reads: its tokens with padding, in how many batches, and the longest."""

    tokens: int = 0
    batches: int = 1
    length: int = 128

    def cut(self, most: int) -> "Text":
        """About so many tokens of it at most."""
        share = min(1.0, most / max(self.tokens, 1))
        return Text(int(self.tokens * share), max(1, int(self.batches * share)), self.length)


@dataclass(frozen=True)
class Body:
    """What a model costs for each token, in FLOPs and in numbers made; and its size."""

    linears: float  # all but its head and its attention scores
    chosen: float  # the chosen sites, which shrink
    scores: float  # attention over texts of the length that calibrates
    head: float  # its language-model head; 0 without one
    rows: int  # logits of a token; 0 without a head
    numbers: float
    blocks: int
    width: int  # of the hidden state
    bytes: int

    @classmethod
    def of(
        cls, model: Any, chosen: Mapping[str, str], parts: Mapping[str, int], read: int, length: int
    ) -> "Body":
        """That of a model, which may be without weights. `chosen`: {site: role}; `parts`: FLOPs by
        part of a forward pass of `read` tokens; `length`: tokens of a text."""
        known = sites(model)
        shapes = {s: shape(model.base_model.get_submodule(s)) for s in known}
        linears = {s: each for s, each in shapes.items() if known[s] != "embedding"}
        rows = model.config.get_text_config().vocab_size if objective_of(model) else 0
        width = next((i for _, i in linears.values()), 1)
        head = min(2.0 * rows * width, parts.get(OTHER, 0) / read)
        scores = parts.get(SCORES, 0) / read
        return cls(
            linears=sum(parts.values()) / read - scores - head,
            chosen=sum(2.0 * o * i for s, (o, i) in linears.items() if s in chosen),
            scores=scores * length / read,  # they grow with the square of the length
            head=head,
            rows=rows,
            numbers=TOUCHED * sum(o + i for o, i in linears.values()),
            blocks=len({tuple(p for p in s.split(".") if p.isdigit()) for s in linears}),
            width=width,
            bytes=count_bytes(model),
        )


def probed_of(model: Any, chosen: Mapping[str, str], text: Text, tokens: int) -> Probed:
    """What to time for a model: the shapes of its chosen linears, and its attention. `tokens`: of
    a batch."""
    counts: dict[tuple[int, int], int] = {}
    for site, role in chosen.items():
        each = shape(model.base_model.get_submodule(site))
        if role == "embedding":
            each = (each[1], each[1])
        counts[each] = counts.get(each, 0) + 1
    heads = head_count(model, next(iter(chosen))) or 1
    config = model.config.get_text_config()
    wide = getattr(config, "head_dim", None) or next(iter(counts))[1] // heads
    return Probed(counts, (heads, max(1, int(wide))), text.length, tokens, model.dtype)


class Passes:
    """The seconds of passes of one model. `share`: what is left of the FLOPs of its chosen sites,
    once they are compressed."""

    def __init__(self, body: Body, rates: Rates):
        self.body, self.rates = body, rates

    def forward(self, text: Text, share: float = 1.0) -> float:
        """One forward pass over a text."""
        body, rates = self.body, self.rates
        token = (body.linears - (1 - share) * body.chosen) / rates.forward
        token += body.scores / rates.attention + body.numbers / rates.numbers
        return text.tokens * token + text.batches * body.blocks * CALLS / rates.calls

    def loss(self, text: Text, share: float = 1.0, predicted: float = 1.0) -> float:
        """One with the loss of this share of the tokens, where the model has a head."""
        body, rates = self.body, self.rates
        token = body.head / rates.forward + LOGITS * body.rows / rates.numbers
        return self.forward(text, share) + predicted * text.tokens * token

    def samples(self, share: float = 1.0) -> float:
        """The continuations of the prompts: every step reads all tokens so far."""
        head = STEPS * PROMPTS * self.body.head / self.rates.forward
        return SLOWER * (self.forward(Text(SAMPLED, STEPS), share) + head)
