"""What a model with a classification head says of each example."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from tlmtool.data.batching import batches
from tlmtool.data.labelled import Example, Task
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.inputs import inputs_once, named, outputs_of
from tlmtool.measuring.outputs import evaluating, position_limit


@torch.no_grad()
def predictions(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    examples: list[Example],
    max_length: int = 128,
    batch: int = 32,
    tick: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The class (n,) of each example, or its figure for a regression; raises Failure for an output
    that is not finite."""
    max_length = min(max_length, position_limit(model) or max_length)
    firsts = [each.first for each in examples]
    seconds = None if examples[0].second is None else [each.second for each in examples]
    found = np.zeros(len(examples))
    with evaluating(model):
        for part in batches(tokenizer, firsts, batch, max_length, seconds):
            logits = outputs_of(model, model, inputs_once(model, part)).logits.float().cpu()
            if not torch.isfinite(logits).all():
                raise Failure(f"the outputs of {named(model)} are not finite")
            best = logits[:, 0] if task.kind == "regression" else logits.argmax(-1)
            found[part.indices] = best.numpy()
            if tick:
                tick(len(part.indices))
    return found if task.kind == "regression" else found.astype(int)


def task_fits(task: Task, model: nn.Module) -> None:
    """Raises Usage where the model has no head for the classes, or the figure, of a task."""
    name = type(model).__name__
    if not name.endswith("ForSequenceClassification"):
        raise Usage(
            f"task {task.name} does not fit {named(model)}: {name} has no head for it; "
            f"tlm finetune --task {task.name} gives it one"
        )
    wanted, found = len(task.labels) or 1, model.config.num_labels
    if found != wanted:
        raise Usage(
            f"task {task.name} does not fit {named(model)}: its head has {found} outputs, "
            f"the task needs {wanted}"
        )


def classes_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the classes that a model tells apart, by id."""
    names = model.config.id2label or {}
    return tuple(str(names[i]) for i in range(len(names)))
