"""Perplexity in sliding windows: against computations by hand, and no token counted twice."""

import math

import conftest
import pytest
import torch
from conftest import CAUSAL, MASKED, SEQ2SEQ, V, word_tokenizer
from hypothesis import given
from hypothesis import strategies as some
from tokenizers import processors
from torch.nn.functional import cross_entropy

from tlmtool.data.batching import begin_token, joined_ids
from tlmtool.data.reading import joined
from tlmtool.failure import NotLoadable, Usage
from tlmtool.measuring import logits
from tlmtool.measuring.perplexity import perplexity, window_of, windows


@torch.no_grad()
def overlapping(model, ids: list[int], window: int, stride: int) -> float:
    """The loop in the documentation of transformers: the loss of labels, -100 where not counted."""
    total, counted, done = 0.0, 0, 0
    for start in range(0, len(ids), stride):
        stop = min(start + window, len(ids))
        read = torch.tensor([ids[start:stop]])
        targets = read.clone()
        targets[:, : done - stop] = -100
        many = int((targets[:, 1:] != -100).sum())
        total += float(model(input_ids=read, labels=targets).loss) * many
        counted, done = counted + many, stop
        if stop == len(ids):
            break
    assert counted == len(ids) - 1  # here, too, each token but the first is predicted once
    return total / counted


@torch.no_grad()
def one_by_one(model, ids: list[int], window: int) -> float:
    """Each token from the tokens of its window before it, and the last one of the window before."""
    losses = []
    for place in range(1, len(ids)):
        start = max(0, place // window * window - 1)
        logits = model(input_ids=torch.tensor([ids[start:place]])).logits[0, -1]
        losses.append(float(cross_entropy(logits.double(), torch.tensor(ids[place]))))
    return math.fsum(losses) / len(losses)


def tokens(count: int) -> list[int]:
    return torch.randint(3, V, (count,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize("family", CAUSAL)
def test_windows_that_overlap_give_what_the_loop_of_transformers_gives(family):
    model, ids = conftest.pico(family, "lm"), tokens(61)
    found = perplexity(model, ids, window=16, stride=5)
    assert found.mean == pytest.approx(overlapping(model, ids, 16, 5), abs=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.mean))
    assert found.tokens == 60


@pytest.mark.parametrize("family", CAUSAL)
def test_windows_side_by_side_give_what_each_token_gives_alone(family):
    model, ids = conftest.pico(family, "lm"), tokens(45)
    found = perplexity(model, ids, window=16)
    assert found.mean == pytest.approx(one_by_one(model, ids, 16), abs=2e-6)
    assert (found.tokens, found.stride) == (44, 16)


@pytest.mark.parametrize("stride", [16, 5])
def test_a_begin_token_is_read_before_each_window(stride):
    model = conftest.pico("llama", "lm")
    begin = [model.config.bos_token_id]
    body = [token for token in tokens(70) if token != begin[0]][:50]
    losses = []
    for place, token in enumerate(body):
        start = 0 if place < 16 else place // 16 * 16 if stride == 16 else (place - 11) // 5 * 5
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([begin + body[start:place]])).logits[0, -1]
        losses.append(float(cross_entropy(logits.double(), torch.tensor(token))))
    found = perplexity(model, begin + body, window=16, stride=stride)
    assert found.begin
    assert found.tokens == 50
    assert found.mean == pytest.approx(math.fsum(losses) / 50, abs=2e-6)


@given(some.integers(2, 300), some.integers(2, 40), some.booleans(), some.data())
def test_each_token_is_predicted_once(count, window, begin, data):
    stride = data.draw(some.integers(1, window))
    parts = windows(count, window, stride, begin)
    predicted = [place for part in parts for place in range(part.first, part.stop)]
    assert predicted == [*range(0 if begin else 1, count)]
    for part in parts:
        assert 0 <= part.start < part.first + begin
        assert part.first < part.stop
        read = begin + part.stop - 1 - part.start  # the last token is only predicted
        assert read <= window
        if stride < window and part.start:
            assert part.first - part.start >= window - stride  # the context of its first token


def test_neither_batches_nor_parts_of_the_logits_change_it(monkeypatch):
    model, ids = conftest.pico("llama", "lm"), tokens(200)
    whole = perplexity(model, ids, window=16, stride=8, batch=1)
    seen = []
    monkeypatch.setattr(logits, "LOGITS", 7 * V)  # the logits of seven tokens
    kept = logits.Body.logits
    monkeypatch.setattr(logits.Body, "logits", lambda *given: seen.append(kept(*given)) or seen[-1])
    ticks = []
    parts = perplexity(model, ids, window=16, stride=8, batch=5, tick=ticks.append)
    assert max(map(len, seen)) == 7
    assert parts.sums == pytest.approx(whole.sums, rel=1e-6)
    assert sum(ticks) == parts.tokens == 199
    assert "forward" not in vars(model.base_model)


def test_an_interval_holds_the_mean_and_one_window_has_none():
    model, ids = conftest.pico("gpt2", "lm"), tokens(200)
    found = perplexity(model, ids, window=16)
    low, high = found.interval()
    assert low < found.mean < high
    assert perplexity(model, ids, window=16, limit=10).interval() is None


def test_the_model_stays_as_it_was():
    model = conftest.pico("gpt2", "lm").train()
    first = perplexity(model, tokens(40), window=16)
    assert model.training
    assert perplexity(model, tokens(40), window=16).mean == first.mean  # without dropout


def test_the_window_is_no_longer_than_the_positions():
    assert window_of(conftest.pico("gpt2", "lm")) == 64
    assert window_of(conftest.pico("llama", "lm", max_position_embeddings=4096)) == 2048
    with pytest.raises(Usage, match=r"window is 65; .* reads at most 64 tokens"):
        perplexity(conftest.pico("gpt2", "lm"), tokens(90), window=65)


@pytest.mark.parametrize("family", [MASKED[0], SEQ2SEQ[0]])
def test_other_models_are_refused_in_a_sentence(family):
    with pytest.raises(Usage, match=r"perplexity is of causal language models; .* use --task"):
        perplexity(conftest.pico(family, "lm"), tokens(9))


@pytest.mark.parametrize(("window", "stride"), [(4, 5), (4, 0), (1, 1)])
def test_windows_that_cannot_be_are_refused(window, stride):
    with pytest.raises(Usage):
        windows(9, window, stride)
    with pytest.raises(Usage, match="two tokens"):
        perplexity(conftest.pico("gpt2", "lm"), [5])


def test_a_text_is_tokenized_whole_and_only_a_begin_token_is_added():
    tokenizer = word_tokenizer()  # it puts [CLS] and [SEP] round a text
    plain = word_tokenizer(special=False)
    assert joined_ids(tokenizer, "the cat\n\nsat") == joined_ids(plain, "the cat sat") == [5, 6, 7]
    tokenizer.bos_token = "[CLS]"
    assert begin_token(tokenizer) == [2]
    assert joined_ids(tokenizer, "the cat") == [2, 5, 6]  # and no end token
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    assert joined_ids(tokenizer, "the cat") == [5, 6]  # a begin token that is not added by default


def test_a_file_is_joined_as_it_stands(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf\n = A title = \r\n\n a line \n\n\n")
    assert joined(file) == "\n = A title = \n\n a line \n\n\n"
    file.write_text("\n \n")
    with pytest.raises(NotLoadable, match="is empty"):
        joined(file)
