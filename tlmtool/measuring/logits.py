"""The logits of a language-model head, of a part of the tokens at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.measuring.inputs import rows_of
from tlmtool.measuring.outputs import logits_at

LOGITS = 2**25  # logits held at once, 128 MiB in float32; more means larger batches


def logits_in_parts(
    model: nn.Module, inputs: dict[str, Any], places: Tensor, targets: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits (M, V), targets (M,)) of some of the places (B, N) at a time.

    A vocabulary of 262,144 has 2 GiB of logits for a window of 2,048. So the body of the model runs
    once, and its head on as many tokens at a time as `LOGITS` allows."""
    rows, columns = places.nonzero().unbind(1)
    most = max(1, LOGITS // rows_of(model))
    with _body_once(model) as once:
        for start in range(0, len(rows), most if once else len(rows)):
            part = slice(start, start + most if once else None)
            chosen = torch.zeros_like(places)
            chosen[rows[part], columns[part]] = True
            yield logits_at(model, model, inputs, chosen), targets[part]


@contextmanager
def _body_once(model: nn.Module) -> Iterator[bool]:
    """Within it, the body of the model runs at its first call and gives the same hidden states at
    every later one. False for a model that has no body apart from its head."""
    base: Any = model.base_model
    own, run, kept = base.__dict__.get("forward"), base.forward, []

    def forward(*args: Any, **inputs: Any) -> Any:
        if not kept:
            output = run(*args, **inputs)
            if "last_hidden_state" not in output:  # then all of it runs each time
                return output
            kept.extend([output, output["last_hidden_state"]])
        kept[0]["last_hidden_state"] = kept[1]  # `logits_at` leaves those of its places there
        return kept[0]

    if base is model:
        yield False
        return
    base.forward = forward
    try:
        yield True
    finally:
        del base.forward
        if own is not None:
            base.forward = own
