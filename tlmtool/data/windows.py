"""Windows of tokens of joined text, as a causal language model reads it."""

from typing import Any

from tlmtool.data.batching import ROOM, begin_token, joined_ids

Windows = dict[str, list[list[int]]]  # token ids of each window, in the form of `batching.encode`

NEAR = 4096  # characters within which the next line or word is looked for


def windows(tokenizer: Any, text: str, length: int, tokens: int) -> Windows:
    """Windows of at most `length` tokens each and `tokens` in all, spread evenly over a text. Each
    starts with the begin token, where the tokenizer adds one.

    A text that is not much longer than that is tokenized whole and cut into windows one after the
    other. A window of a longer text starts with a line of it.
    """
    begin, many = begin_token(tokenizer), max(1, tokens // length)
    inner = length - len(begin)
    if len(text) <= tokens * ROOM:
        ids = joined_ids(tokenizer, text)[len(begin) :]
        rows = [ids[at : at + inner] for at in range(0, len(ids), inner)]
        rows = [rows[k * len(rows) // many] for k in range(many)] if len(rows) > many else rows
    else:
        starts = [start_of_line(text, k * len(text) // many) for k in range(many)]
        pieces = (text[at : at + length * ROOM] for at in starts)
        rows = [joined_ids(tokenizer, piece)[len(begin) :][:inner] for piece in pieces]
    special = [[1] * len(begin) + [0] * len(row) for row in rows]
    return {"input_ids": [[*begin, *row] for row in rows], "special_tokens_mask": special}


def start_of_line(text: str, place: int, near: int = NEAR) -> int:
    """The start of the first line, or else of the first word, at this place or after it. A place
    where neither is near stays, and so does the start of the text."""
    end = place + min(near, NEAR)
    for sign in ("\n", " ") if place else ():
        if (found := text.find(sign, place - 1, end)) >= 0 and found + 1 < len(text):
            return found + 1
    return place
