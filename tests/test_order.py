"""The order of examples: all of them, once an epoch, alike in length, the same for a seed."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tlmtool.training.order import batches_of, split, steps_of

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@given(LENGTHS, st.integers(1, 40), st.integers(1, 4), st.integers(0, 5))
def test_an_epoch_sees_every_example_once_but_a_last_short_batch(lengths, batch, least, seed):
    batch = max(batch, least)
    found = batches_of(lengths, batch, least, seed, 0)
    seen = list(itertools.chain(*found))
    assert len(seen) == len(set(seen)) and all(least <= len(each) <= batch for each in found)
    assert len(lengths) - len(seen) < max(1, least)
    assert found == batches_of(lengths, batch, least, seed, 0)


def test_epochs_and_seeds_differ_and_lengths_are_alike_within_a_batch():
    lengths = [1 + (i * 7919) % 97 for i in range(1600)]
    orders = [batches_of(lengths, 32, 1, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in orders[0]]
    assert sum(spread) / len(spread) < 10


@given(st.integers(0, 30))
def test_a_run_goes_on_where_it_was(start):
    lengths = list(range(1, 40))
    whole = itertools.islice(steps_of(lengths, 8, 1, 3), 40)
    rest = itertools.islice(steps_of(lengths, 8, 1, 3, start), 40 - start)
    assert list(whole)[start:] == list(rest)


@given(st.integers(1, 50), st.integers(1, 8))
def test_parts_are_even_and_whole(n, parts):
    found = split(list(range(n)), parts)
    assert list(itertools.chain(*found)) == list(range(n)) and len(found) == parts
    assert max(map(len, found)) - min(map(len, found)) <= 1
