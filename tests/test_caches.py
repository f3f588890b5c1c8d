"""Decoding with kernels: whatever cache holds their states, the logits are those of the text."""

import copy

import pytest
import torch
from conftest import pico
from test_attending import made
from transformers import DynamicCache, StaticCache

CASES = [("gpt2", "dimensionwise"), ("gpt2", "decay"), ("mistral", "conv"), ("bart", "two kernels")]
EVERY = pytest.mark.parametrize(("family", "kernel"), CASES)
LAYERS = {"first": slice(0, 1), "last": slice(-1, None)}
NEW = 7


def text(rows: int = 1) -> dict:
    """A text that repeats itself, for prompt look-up; the second row is padded on the left."""
    ids = torch.randint(3, 99, (rows, 5), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    mask = torch.ones_like(ids)
    mask[1:, :3] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


def generated(model, rows: int = 1, **more):
    more = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, **more}
    ends = {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 1}
    return model.generate(**text(rows), **ends, **more)


def assert_same(found, expected) -> None:
    assert torch.equal(found.sequences, expected.sequences)
    for here, there in zip(found.logits, expected.logits, strict=True):
        assert (here - there).abs().max() <= 1e-4 * there.abs().max()


@EVERY
@pytest.mark.parametrize("layers", LAYERS)
def test_generate(family, kernel, layers):
    model = made(family, kernel, layers=LAYERS[layers])
    expected = generated(model, use_cache=False)
    ways = [{}, {"cache_implementation": "static"}, {"prefill_chunk_size": 4}]
    ways += [{"prompt_lookup_num_tokens": 3}, {"assistant_model": pico(family, "lm")}]
    close = copy.deepcopy(model)  # an assistant that is often right, not always
    for parameter in close.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    for more in [*ways, {"assistant_model": close}, {"assistant_model": model}]:
        assert_same(generated(model, **more), expected)


@pytest.mark.parametrize("way", ["static", "dynamic"])
@pytest.mark.parametrize("layers", LAYERS)
def test_rows_beams_and_padding(way, layers):
    model = made("llama", "decay", layers=LAYERS[layers])
    for more in ({}, {"num_beams": 3}):
        expected = generated(model, 2, use_cache=False, **more)
        found = generated(model, 2, cache_implementation=way, **more)
        assert torch.equal(found.sequences, expected.sequences)


@EVERY
def test_a_text_goes_on_with_the_cache_that_came_back(family, kernel):
    model, cut = made(family, kernel), {"max_new_tokens": 3, "min_new_tokens": 3}
    if model.config.is_encoder_decoder:
        return  # `generate` starts its text from the encoder
    expected, first = generated(model), generated(model, **cut)
    again = {"input_ids": first.sequences, "past_key_values": first.past_key_values}
    more = {"max_new_tokens": NEW - 3, "do_sample": False, "pad_token_id": 1}
    assert torch.equal(model.generate(**again, **more), expected.sequences)


@torch.no_grad()
@EVERY
def test_a_cache_forgets_what_it_read_since_it_was_asked_to_remember(family, kernel):
    model = made(family, kernel, layers=LAYERS["first"])
    if model.config.is_encoder_decoder:
        return
    ids = torch.randint(3, 99, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    places = {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)}
    whole = model(input_ids=ids, attention_mask=mask, **places).logits

    def read(start, end, tokens=ids):
        seen = {"attention_mask": mask[:, :end], "past_key_values": cache}
        at = {k: v[:, start:end] for k, v in places.items()}
        return model(input_ids=tokens[:, start:end], **seen, **at).logits

    for remove in (0, 1, 3, 5, 9):
        cache = DynamicCache(config=model.config)
        read(0, 1)
        if remove:
            cache.activate_past_recording()
        wrong = ids.flip(1)
        kept = 10 - remove
        tokens = torch.cat((ids[:, :kept], wrong[:, kept:]), 1)
        for start, end in ((1, 4), (4, 5), (5, 10)):
            read(start, end, tokens)
        cache.crop(-remove)
        assert cache.get_seq_length() == kept
        assert (read(kept, 12) - whole[:, kept:]).abs().max() <= 1e-4 * whole.abs().max()


def test_what_a_state_cannot_forget_is_refused():
    cache = generated(made("gpt2", "dimensionwise")).past_key_values
    for remove in (1, -1):
        with pytest.raises(ValueError, match="new cache"):
            cache.crop(remove)
    filled = generated(pico("gpt2", "lm")).past_key_values
    with pytest.raises(ValueError, match="softmax attention has filled"):
        generated(made("gpt2", "dimensionwise"), past_key_values=filled)


@torch.no_grad()
@pytest.mark.parametrize("layers", LAYERS)
def test_a_cache_of_fixed_length_that_is_given(layers):
    model = made("gpt2", "decay", layers=LAYERS[layers])
    ids = text()["input_ids"]
    whole = model(input_ids=ids).logits
    cache, found = StaticCache(config=model.config, max_cache_len=16), []
    for start, end in ((0, 4), (4, 5), (5, 6), (6, 10)):
        found.append(model(input_ids=ids[:, start:end], past_key_values=cache).logits)
    assert (torch.cat(found, 1) - whole).abs().max() <= 1e-4 * whole.abs().max()
