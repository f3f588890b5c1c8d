"""By how much a perplexity rose, how sure that is, and when it is a sign of damage."""

import math

import numpy as np
from torch import nn

from tlmtool.failure import Failure
from tlmtool.measuring.intervals import paired_interval
from tlmtool.measuring.perplexity import Perplexity, context_of
from tlmtool.report.parts.quality import Nats, Quality
from tlmtool.report.parts.quality import Perplexity as Rise

MOST = 0.5  # nats, a perplexity 1.65 times as high; a loss that rises by more raises the alarm
FEW = 4000  # tokens; a perplexity that is measured on fewer is warned of
LARGEST = 700.0  # nats; a float cannot hold e to the power of more


def window_in(model: nn.Module, asked: int) -> int:
    """The window that is asked for, or the context of the model where that is shorter."""
    return min(asked, context_of(model) or asked)


def in_windows(before: Perplexity | None, after: Perplexity, seed: int) -> Quality:
    """The loss and the perplexity before and after, measured in the same windows, with an interval
    of the difference by resamples of the windows. Without `before` there is no difference."""
    what = (
        f"mean NLL of a token in nats, and e to its power, on {after.tokens:,} held-out tokens in "
        f"windows of {after.window:,}"
    )
    common = {"name": "loss", "what": what, "after": after.mean, "tokens": after.tokens}
    if before is None:
        return Quality(before=None, perplexity=Rise(after=after.perplexity), **common)
    difference, interval = after.mean - before.mean, _interval(before, after, seed)
    rise = Rise(
        before=before.perplexity,
        after=after.perplexity,
        ratio=_ratio(difference),
        interval=interval and (math.exp(interval[0]), math.exp(min(LARGEST, interval[1]))),
    )
    nats = Nats(difference=difference, interval=interval)
    return Quality(before=before.mean, perplexity=rise, nats=nats, **common)


def _interval(before: Perplexity, after: Perplexity, seed: int) -> tuple[float, float] | None:
    try:
        return paired_interval(after.statistic, before.statistic, len(after.sums), seed)
    except Failure:  # one window, or no spread
        return None


def _ratio(difference: float) -> float | None:
    return float(np.exp(difference)) if difference < LARGEST else None


def alarms(found: Quality) -> tuple[str, ...]:
    """What in a quality is a sign that the model is damaged, in sentences."""
    told = []
    if found.nats and found.nats.difference > MOST:
        ends = ""
        if (each := found.perplexity) and each.after is not None:
            ends = f", from a perplexity of {each.before:.1f} to {each.after:.1f}"
        told.append(
            f"the model is damaged: its loss rose by {found.nats.difference:.2f} nats{ends}"
        )
    if looped := sum(each.loops for each in found.samples or ()):
        told.append(
            f"{looped} of {len(found.samples or ())} samples of the model repeat themselves now, "
            "and did not before"
        )
    return tuple(told)


def doubts(found: Quality) -> list[str]:
    """A warning where a perplexity was measured on few tokens."""
    if found.tokens is None or found.tokens >= FEW:
        return []
    return [
        f"the perplexity is measured on {found.tokens:,} held-out tokens; fewer than {FEW:,} tell "
        "little, so give a longer text"
    ]
