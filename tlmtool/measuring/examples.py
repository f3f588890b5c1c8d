"""What an evaluation reads: labelled examples, sentence pairs or texts."""

from pathlib import Path
from typing import Any

from torch import nn

from tlmtool.data import labelled
from tlmtool.data.glue import Task
from tlmtool.data.labelled import Example
from tlmtool.data.labels import numbered
from tlmtool.data.language import development_file
from tlmtool.data.parallel import parallel_pairs
from tlmtool.data.tasks import choose, sentence_pairs, texts
from tlmtool.failure import Usage
from tlmtool.measuring.predictions import classes_of, task_fits


def labelled_examples(
    task: str,
    data: Any,
    models: list[nn.Module],
    columns: dict[str, str | None],
    samples: int | None,
    seed: int,
) -> tuple[Task, list[Example]]:
    """The task, with the classes of the first model that has names for them, and the examples."""
    known = [classes_of(each) for each in models] if task == "classification" else [()]
    classes = next((names for names in known if not numbered(names)), known[0])
    form, found = labelled.examples(task, data, classes=classes, **columns)
    for each in models:
        task_fits(form, each)
    return form, choose(found, samples, seed)


def translations(data: Any, languages: str | None, columns: dict[str, str | None]) -> list[Any]:
    """The sentence pairs of a path, or those that were given."""
    if data is None or isinstance(data, str | Path):
        return parallel_pairs(data, languages, columns.get("text"), columns.get("label"))
    return data


def plain_examples(task: str, data: Any, samples: int | None, seed: int) -> list[Any]:
    """The texts or pairs to evaluate on, a seeded choice where there are more than `samples`."""
    if task == "similarity":
        if data is None:
            raise Usage(
                "task similarity needs data: a csv or tsv file of sentence1, sentence2, score"
            )
        return choose(sentence_pairs(data) if isinstance(data, str | Path) else data, samples, seed)
    if data is None or isinstance(data, str | Path):
        return texts(development_file(data), samples, seed)
    if not data:
        what = "sentence pairs" if task == "translation" else "texts"
        raise Usage(f"task {task} was given no {what}")
    return choose(data, samples, seed)
