"""Texts become batches of tokens: they are encoded once, and padded batch by batch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tlmtool.failure import Usage, blaming

ROOM = 8  # characters that are read for each token that is wanted; more than a token has on average
FILL = {"token_type_ids": 0, "special_tokens_mask": 1}  # what pads besides the padding token


class Batch(NamedTuple):
    """Tokenized texts of similar length, padded on the right.

    `indices`: place of each row in the list of texts; `inputs`: what the model takes, each (B, N);
    `special`: (B, N), true on padding and on the tokens that the tokenizer adds.
    """

    indices: list[int]
    inputs: dict[str, Tensor]
    special: Tensor

    def reading(self, ids: Tensor) -> "Batch":
        """The same batch with other token ids (B, N)."""
        return self._replace(inputs=self.inputs | {"input_ids": ids})


def encode(
    tokenizer: Any,
    texts: list[str],
    seconds: list[str] | None = None,
    max_length: int | None = 128,
) -> dict[str, list[list[int]]]:
    """{name: a list for each text} of token ids and what goes with them, without padding.

    Texts, or pairs with `seconds`, are cut to `max_length` tokens, special ones included. Raises
    Usage for a length that leaves no room for a token of a text.
    """
    added = tokenizer.num_special_tokens_to_add(pair=seconds is not None)
    if max_length is not None and max_length <= added:
        raise Usage(
            f"max length is {max_length}; {added + 1} is the least with {added} special tokens"
        )
    cut = {"truncation": True, "max_length": max_length} if max_length else {"truncation": False}
    pairs = {} if seconds is None else {"text_pair": list(seconds)}
    with _tokenizing(tokenizer):
        return tokenizer(
            list(texts),
            **pairs,
            padding=False,
            return_attention_mask=False,
            return_special_tokens_mask=True,
            verbose=False,
            **cut,
        )


def _tokenizing(tokenizer: Any) -> AbstractContextManager:
    """Turns what a tokenizer raises on a text, a panic of Rust too, into NotLoadable."""
    name = getattr(tokenizer, "name_or_path", "") or "given"
    return blaming(f"the tokenizer {name} fails on a text")


def cut(
    tokenizer: Any,
    texts: list[str],
    max_length: int,
    what: str,
    seconds: list[str] | None = None,
    encoded: dict[str, list[list[int]]] | None = None,
) -> list[str]:
    """A warning that says how many texts `encode` cuts to a length, and how many of their tokens
    are left out, if any; `what` names them. `encoded` is what it gave for them, if it is known."""
    if not texts:
        return []
    kept = (encoded or encode(tokenizer, texts, seconds, max_length))["input_ids"]

    def whole(places: list[int]) -> list[list[int]]:
        pairs = seconds and [seconds[place] for place in places]
        return encode(tokenizer, [texts[place] for place in places], pairs, None)["input_ids"]

    return cut_of(kept, whole, max_length, what)


def cut_of(
    kept: list[list[int]],
    whole: Callable[[list[int]], list[list[int]]],
    max_length: int,
    what: str,
) -> list[str]:
    """`cut` of texts whose tokens are known. `whole` gives all tokens of the texts at places; it is
    asked for those alone that are as long as a cut one."""
    full = [place for place, ids in enumerate(kept) if len(ids) >= max_length]
    found = whole(full) if full else []
    over = [len(ids) - max_length for ids in found if len(ids) > max_length]
    if not over:
        return []
    return [
        f"{len(over):,} of the {len(kept):,} {what} are cut at {max_length} tokens, which leaves "
        f"out {sum(over):,} of {sum(map(len, kept)) + sum(over):,} tokens"
    ]


def packed(
    tokenizer: Any, texts: list[str], max_length: int, eos: bool = False
) -> dict[str, list[list[int]]]:
    """The same as `encode`, for blocks of `max_length` tokens: the texts one after the other, as
    `together` joins them. A last block that is not full is left out, unless it is the only one.

    `eos`: the texts are tokenized one by one instead, each followed by the tokenizer's end token,
    or else its separating token."""
    begin, end = begin_token(tokenizer), []
    if eos:
        known = (tokenizer.eos_token_id, tokenizer.sep_token_id)
        end = [token for token in known if token is not None][:1]
        with _tokenizing(tokenizer):
            each = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        stream = [token for ids in each["input_ids"] for token in [*ids, *end]]
    else:
        stream = joined_ids(tokenizer, together(texts))
    whole = max(len(stream) // max_length * max_length, min(len(stream), max_length))
    blocks = [stream[at : at + max_length] for at in range(0, whole, max_length)]
    special = [[int(token in (*begin, *end)) for token in block] for block in blocks]
    return {"input_ids": blocks, "special_tokens_mask": special}


def together(texts: list[str]) -> str:
    """The texts as one, each on lines of its own. Lines that hold their line ends, as `lines` reads
    them, are a file as it stands."""
    *others, last = texts or [""]
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in others) + last


def joined_ids(tokenizer: Any, text: str, limit: int | None = None) -> list[int]:
    """The token ids of a text, tokenized whole. The begin token comes first where the tokenizer
    adds one; no other token is added. `limit`: only the first tokens are wanted, so that the rest
    of a long text is not read."""
    room = len(text) if limit is None else limit * ROOM
    with _tokenizing(tokenizer):
        found = tokenizer(
            text[:room], add_special_tokens=False, return_attention_mask=False, verbose=False
        )
    ids = [*begin_token(tokenizer), *found["input_ids"]]
    if limit is None or room >= len(text) or len(ids) > limit + limit // 4 + 8:
        return ids[:limit]
    return joined_ids(tokenizer, text)[:limit]  # its tokens are unusually long


def ids_of(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The token ids of each text, without any that the tokenizer adds."""
    with _tokenizing(tokenizer):
        found = tokenizer(
            texts, add_special_tokens=False, return_attention_mask=False, verbose=False
        )
    return list(found["input_ids"])


def begin_token(tokenizer: Any) -> list[int]:
    """The begin token that the tokenizer puts before a text, or an empty list."""
    with _tokenizing(tokenizer):
        found = tokenizer("a", return_special_tokens_mask=True, return_attention_mask=False)
    first, added = found["input_ids"][:1], found["special_tokens_mask"][:1]
    return list(first) if added == [1] and first == [tokenizer.bos_token_id] else []


def encode_targets(tokenizer: Any, texts: list[str], max_length: int) -> list[list[int]]:
    """Token ids of texts in the language that a tokenizer translates to, cut to `max_length`. The
    last one of each is the end token, also where the tokenizer does not add it."""
    cut, end = {"truncation": True, "max_length": max_length}, tokenizer.eos_token_id
    settings = {"padding": False, "return_attention_mask": False, **cut}
    with _tokenizing(tokenizer):
        found = tokenizer(text_target=list(texts), **settings)
    return [
        list(ids) if ids[-1:] == [end] else [*ids[: max_length - 1], end]
        for ids in found["input_ids"]
    ]


def pad(tokenizer: Any, encoded: dict[str, list[list[int]]], indices: list[int]) -> Batch:
    """These rows of what `encode` gave, padded on the right, also where the tokenizer pads on the
    left. A tokenizer without a padding token pads with its end token. The attention mask (B, N) is
    right in either case."""
    ends = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    fill = {"input_ids": next(token for token in ends if token is not None)} | FILL
    lengths = torch.tensor([len(encoded["input_ids"][i]) for i in indices])
    width = max(1, int(lengths.max()))
    padded = {
        name: torch.tensor(
            [list(encoded[name][i]) + [value] * (width - len(encoded[name][i])) for i in indices]
        )
        for name, value in fill.items()
        if name in encoded
    }
    padded["attention_mask"] = (torch.arange(width) < lengths[:, None]).long()  # (B, N)
    special = padded.pop("special_tokens_mask").bool()
    return Batch(indices, padded, special)


def batches(
    tokenizer: Any,
    texts: list[str],
    batch: int = 32,
    max_length: int | None = 128,
    seconds: list[str] | None = None,
) -> Iterator[Batch]:
    """The texts as batches, cut by `encode`, in the order of `in_batches`."""
    yield from in_batches(tokenizer, encode(tokenizer, texts, seconds, max_length), batch)


def in_batches(
    tokenizer: Any, encoded: dict[str, list[list[int]]], batch: int = 32
) -> Iterator[Batch]:
    """Encoded texts, at most `batch` at a time, padded by `pad`. The longest come first, so that
    the first batch shows whether memory suffices."""
    if batch < 1:
        raise Usage(f"batch is {batch}; at least 1 is needed")
    lengths = [len(ids) for ids in encoded["input_ids"]]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])  # sorting is stable
    for start in range(0, len(order), batch):
        yield pad(tokenizer, encoded, order[start : start + batch])
