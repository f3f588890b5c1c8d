"""Short continuations of prompts by a causal language model, and whether they repeat themselves."""

from typing import Any

import torch
from torch import nn

from tlmtool.data.batching import joined_ids, pad
from tlmtool.data.reading import texts
from tlmtool.measuring.inputs import inputs_once
from tlmtool.measuring.outputs import evaluating, logits_at, position_limit
from tlmtool.report.parts.quality import Sample

PROMPTS = (
    "The capital of France is",
    "Once upon a time, there was",
    "The best way to learn a language is",
)
MANY = 3  # prompts of a file that are continued; more take longer
NEW = 32  # tokens of a continuation; fewer may end before a loop shows
TIMES, LEAST = 3, 12  # a loop is repeated so often, and has as many tokens; less is often meant


def prompts_of(path: str | None) -> list[str]:
    """The first three prompts of a file, one a line; those that come with tlm for None. Raises a
    Failure for a file that cannot be read."""
    return list(PROMPTS) if path is None else texts(path, words=1)[:MANY]


class Samples:
    """The continuations of a model before a change, and later those after it. `prompts`: a file of
    prompts, one a line, of which the first three are used; None for those that come with tlm.
    `new`: the model before writes none, as its weights are random."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, prompts: str | None = None, new: bool = False
    ):
        self.tokenizer = tokenizer
        self.prompts = prompts_of(prompts)
        self.before = None if new else self._made(model)

    def _made(self, model: nn.Module) -> list[list[int]]:
        rows = [joined_ids(self.tokenizer, prompt) for prompt in self.prompts]
        return continued(model, self.tokenizer, rows)

    def compared(self, model: nn.Module) -> tuple[Sample, ...]:
        """Each prompt with its continuation before, and by the model as it is now."""
        now = self._made(model)
        before = self.before or [None] * len(now)
        return tuple(map(self._sample, self.prompts, before, now))

    def _sample(self, prompt: str, old: list[int] | None, new: list[int]) -> Sample:
        said = [
            None if ids is None else self.tokenizer.decode(ids, skip_special_tokens=True).strip()
            for ids in (old, new)
        ]
        began = old is not None and looping(new) and not looping(old)
        return Sample(prompt=prompt, before=said[0], after=said[1], loops=began)


@torch.no_grad()
def continued(
    model: nn.Module, tokenizer: Any, rows: list[list[int]], tokens: int = NEW
) -> list[list[int]]:
    """The `tokens` most likely tokens after each row of token ids, or those up to an end token.

    Each token is the most likely one after those before it: no sampling, whatever the generation
    config says. No cache is used, so that any causal language model will do.
    """
    limit, ends = position_limit(model), _ends(model, tokenizer)
    if limit is not None:
        tokens = min(tokens, limit // 2)
        rows = [row[: limit - tokens] for row in rows]
    made: list[list[int]] = [[] for _ in rows]
    going = [place for place, row in enumerate(rows) if row]
    with evaluating(model):
        for _ in range(tokens):
            read = [[*row, *new] for row, new in zip(rows, made, strict=True)]
            given = {"input_ids": read, "special_tokens_mask": [[0] * len(ids) for ids in read]}
            part = pad(tokenizer, given, going)
            inputs = inputs_once(model, part)
            real = part.inputs["attention_mask"].to(inputs["input_ids"].device)  # (B, N)
            last = torch.arange(real.shape[1], device=real.device) == real.sum(1)[:, None] - 1
            chosen = logits_at(model, model, inputs, last).argmax(-1).tolist()
            for place, token in zip(going, chosen, strict=True):
                made[place].append(token)
            going = [place for place in going if made[place][-1] not in ends]
            if not going:
                break
    return made


def _ends(model: nn.Module, tokenizer: Any) -> set[int]:
    """The tokens that end a text, by the tokenizer and the config."""
    own = getattr(model.config.get_text_config(), "eos_token_id", None)
    return {tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])}


def looping(ids: list[int]) -> bool:
    """Whether tokens end in a loop: the same tokens three times or more, twelve of them at least.

    >>> looping([5, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4])
    True
    """
    for period in range(1, len(ids) // TIMES + 1):
        run = period
        while run < len(ids) and ids[-1 - run] == ids[-1 - run + period]:
            run += 1
        if run >= max(TIMES * period, LEAST):
            return True
    return False
