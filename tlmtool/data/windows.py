"""Windows of tokens of joined text, as a causal language model reads it."""

from typing import Any, NamedTuple

from tlmtool.data.batching import ROOM, begin_token, ids_of, joined_ids
from tlmtool.failure import NotLoadable

Windows = dict[str, list[list[int]]]  # token ids of each window, in the form of `batching.encode`

NEAR = 4096  # characters within which the next line or word is looked for
LEARNED, AT_A_STEP = 256, 8  # tokens of a window that is trained on, and windows of a step; longer
# windows show a model longer texts, and fewer of them in the same time
LINE = 40  # characters; shorter lines, such as headings, may stand in any two texts


class Learned(NamedTuple):
    """Windows to train on, token ids that are equally many in each, and where they come from."""

    rows: list[list[int]]
    source: str

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return len(self.rows[0])


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
        pieces = [text[at : at + length * ROOM] for at in starts]
        rows = [ids[:inner] for ids in ids_of(tokenizer, pieces)]
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


def to_learn(tokenizer: Any, text: str, length: int, tokens: int, source: str) -> Learned:
    """Those of `windows` that have `length` tokens, so that no window is padded. Raises NotLoadable
    for a text, from this source, that does not fill one."""
    found = windows(tokenizer, text, length, tokens)["input_ids"]
    rows = [row for row in found if len(row) == length]
    if not rows:
        most = max(map(len, found), default=0)
        raise NotLoadable(
            f"{source} gives {most} tokens to train on, less than a window of {length}: give a "
            "longer text, or a shorter window"
        )
    return Learned(rows, source)


def without(text: str, held: str, scored: list[str]) -> str:
    """A text without what measures: the text that is held out, its lines of 40 characters or more,
    and lines that are scored by themselves."""
    taken = {line.strip() for line in held.split("\n") if len(line.strip()) >= LINE}
    taken |= set(scored)
    if held.strip():
        text = text.replace(held.strip(), "")
    return "\n".join(line for line in text.split("\n") if line.strip() not in taken)
