"""What a model with a classification head predicts for each example."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from tlmtool.data.batching import batches
from tlmtool.data.labelled import Example
from tlmtool.data.labels import classes_in, matched, names_of, numbered
from tlmtool.failure import Failure, Usage
from tlmtool.measuring.inputs import folder_of, inputs_once, name_of, outputs_of
from tlmtool.measuring.outputs import evaluating, position_limit
from tlmtool.models.folder import Folder
from tlmtool.tasks.table import Task


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
    """The class (n,) of each example, or its figure for a regression. Raises Failure for an output
    that is not finite."""
    max_length = min(max_length, position_limit(model) or max_length)
    firsts = [each.first for each in examples]
    seconds = None if examples[0].second is None else [each.second for each in examples]
    found, order = np.zeros(len(examples)), columns(task, model)
    with evaluating(model):
        for part in batches(tokenizer, firsts, batch, max_length, seconds):
            logits = outputs_of(model, model, inputs_once(model, part)).logits.float().cpu()
            if not torch.isfinite(logits).all():
                raise Failure(f"the outputs of {name_of(model)} are not finite")
            best = logits[:, 0] if task.kind == "regression" else logits[:, order].argmax(-1)
            found[part.indices] = best.numpy()
            if tick:
                tick(len(part.indices))
    return found if task.kind == "regression" else found.astype(int)


def task_fits(task: Task, model: nn.Module) -> None:
    """Raises Usage where the model has no head for the classes, or the figure, of a task."""
    name = type(model).__name__
    if not name.endswith("ForSequenceClassification"):
        raise Usage(
            f"task {task.name} does not fit {name_of(model)}: {name} has no head for it; "
            f"tlm finetune --task {task.name} gives it one"
        )
    wanted, found = len(task.labels) or 1, model.config.num_labels
    if found != wanted:
        raise Usage(
            f"task {task.name} does not fit {name_of(model)}: its head has {found} outputs, "
            f"the task needs {wanted}"
        )


def classes_of(model: nn.Module) -> tuple[str, ...]:
    """The names of the classes that a model tells apart, by id."""
    names = names_of(vars(model.config), model.config.num_labels)
    folder = folder_of(model)
    if folder and numbered(names) and (folder / "config.json").is_file():
        # transformers drops a label2id without id2label
        kept = classes_in(Folder(folder).config)
        names = kept if len(kept) == len(names) else names
    return names


def columns(task: Task, model: nn.Module) -> list[int]:
    """The output of a head for each class of a task, matched by name. They are in the order of the
    task where the names of the head say nothing. Raises Usage where only some match."""
    found = matched(task.labels, classes_of(model), name_of(model)) if task.labels else None
    return [*range(len(task.labels))] if found is None else found


def nameless(task: Task, names: tuple[str, ...], whose: str) -> list[str]:
    """A warning where the names of a head's classes say nothing, which tells the order taken."""
    if not task.labels or matched(task.labels, names, whose) is not None:
        return []
    return [
        f"the classes of {whose} are named {', '.join(names)}, which says nothing of task "
        f"{task.name}: they are taken to be {', '.join(task.labels)}, in this order"
    ]
