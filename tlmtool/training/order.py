"""Which examples each step sees: a function of seed and epoch, so that training can be resumed."""

import math
import random
from collections.abc import Iterator
from itertools import pairwise

from tlmtool.failure import Failure

BUCKET = 50  # batches whose examples are sorted together: more means less padding, less shuffling


def batches_of(
    lengths: list[int], batch: int, least: int, seed: int, epoch: int
) -> list[list[int]]:
    """The places of the examples in each batch of an epoch; a batch holds similar lengths.

    Seeded by (seed, epoch): examples are shuffled, sorted by length within buckets of 50 batches,
    and cut into batches, which are shuffled. Batches of fewer than `least` examples are left out.
    """
    draw = random.Random(f"{seed} {epoch}")
    places = list(range(len(lengths)))
    draw.shuffle(places)
    found = []
    for start in range(0, len(places), BUCKET * batch):
        bucket = sorted(places[start : start + BUCKET * batch], key=lambda i: lengths[i])
        found += [bucket[i : i + batch] for i in range(0, len(bucket), batch)]
    found = [each for each in found if len(each) >= least]
    draw.shuffle(found)
    return found


def steps_of(
    lengths: list[int], batch: int, least: int, seed: int, start: int = 0
) -> Iterator[tuple[int, list[int]]]:
    """(epoch, places) of every step from `start` on, without end."""
    epoch, done = 0, 0
    while True:
        found = batches_of(lengths, batch, least, seed, epoch)
        for each in found[max(0, start - done) :]:
            yield epoch, each
        done += len(found)
        start = max(start, done)
        epoch += 1


def length_of(
    lengths: list[int], batch: int, least: int, seed: int, epochs: float, steps: int | None
) -> tuple[int, int]:
    """(steps of an epoch, steps in all). Raises Failure for too few examples to make a batch."""
    epoch = len(batches_of(lengths, batch, least, seed, 0))
    if not epoch:
        raise Failure(f"{len(lengths)} examples are too few for a batch of {least} micro-batches")
    return epoch, steps or max(1, math.ceil(epochs * epoch))


def split(places: list[int], parts: int) -> list[list[int]]:
    """`places` cut into `parts` of nearly equal size, in their order."""
    cuts = [round(i * len(places) / parts) for i in range(parts + 1)]
    return [places[a:b] for a, b in pairwise(cuts)]


def parts_of(
    places: list[int], parts: int, lengths: list[int], tokens: int | None
) -> list[list[list[int]]]:
    """`places` split into micro-batches, and each of these into parts of nearly equal size. A part
    has at most so many tokens, where all are as long as the longest example, or one example."""
    found = []
    for each in filter(len, split(places, parts)):
        longest = max(1, *(lengths[place] for place in each))
        many = len(each) if tokens is None else max(1, tokens // longest)
        found.append(split(each, -(-len(each) // many)))
    return found
