"""What an evaluation reads: labelled examples, sentence pairs or texts."""

from pathlib import Path
from typing import Any

from torch import nn

from tlmtool.data import labelled
from tlmtool.data.labels import numbered
from tlmtool.data.language import development_file
from tlmtool.data.parallel import parallel_pairs
from tlmtool.data.reading import choose, joined, lines, texts
from tlmtool.failure import Usage
from tlmtool.measuring.inputs import name_of
from tlmtool.measuring.losses import objective_of
from tlmtool.measuring.perplexity import refuse
from tlmtool.measuring.predictions import classes_of, task_fits
from tlmtool.measuring.scoring import bleu_of
from tlmtool.tasks.table import TASKS, Task

HEADS = {  # {task: what its model's own objective may be}
    "mlm": ("mlm",),
    "clm": ("clm", "seq2seq"),
    "translation": ("seq2seq",),
}
HAS = {  # {objective of a model: what it has, and which tasks fit that}
    "mlm": "a masked-language-model head (task mlm)",
    "clm": "a causal-language-model head (task clm)",
    "seq2seq": "a sequence-to-sequence head (tasks clm and translation)",
    None: "no language-model head (tasks similarity and features)",
}


def examples_of(
    task: str,
    data: Any,
    models: list[nn.Module],
    against: nn.Module | None,
    samples: int | None,
    seed: int,
    columns: dict[str, str | None],
    languages: str | None = None,
    verbatim: bool = False,
) -> tuple[Task, list[Any]]:
    """(the task, the examples) of `evaluate`. There may be no models: it raises what a task, a
    model or data refuse, before any weights are loaded. `verbatim`: texts keep line ends and blank
    lines; of many the first are taken, as a choice would join what lies apart."""
    if task not in TASKS:
        raise Usage(f"task {task!r} is unknown: choose one of {', '.join(TASKS)}")
    row = TASKS[task]
    if row.labelled:
        return _labelled(row, data, models, columns, samples, seed)
    _check(row, models, against)
    if row.kind == "perplexity":
        for each in models:
            refuse(each)
        return row, [_text(data)]
    if row.kind == "translation":
        bleu_of(languages)  # refused before any work
        if data is None or isinstance(data, str | Path):
            data = parallel_pairs(data, languages, columns.get("text"), columns.get("label"))
    if row.kind == "similarity":
        if data is None:
            raise Usage("task similarity needs data: a table of sentence1, sentence2, score")
        if isinstance(data, str | Path):
            data = labelled.sentence_pairs(data, **columns)
    return row, _plain(row, data, samples, seed, verbatim)


def _check(task: Task, models: list[nn.Module], against: nn.Module | None) -> None:
    """Raises Usage where a model cannot do the task, naming the head that it has."""
    if (task.kind == "features") != (against is not None):
        asks = "needs a" if against is None else "takes no"
        raise Usage(f"task {task.name} {asks} model to compare against")
    wanted = HEADS.get(task.name)
    for each in models:
        if wanted and objective_of(each) not in wanted:
            found = f"{type(each).__name__} has {HAS[objective_of(each)]}"
            raise Usage(f"task {task.name} does not fit {name_of(each)}: {found}")
    if wanted and len({objective_of(each) for each in models}) > 1:
        names = " and ".join(map(name_of, models))
        raise Usage(f"{names} have different losses: they cannot be compared")


def _labelled(
    task: Task,
    data: Any,
    models: list[nn.Module],
    columns: dict[str, str | None],
    samples: int | None,
    seed: int,
) -> tuple[Task, list[labelled.Example]]:
    """The task, with the classes of the first model that has names for them, and the examples."""
    own = task.kind == "classification" and not task.labels
    known = [classes_of(each) for each in models] if own else [()]
    classes = next((names for names in known if not numbered(names)), known[0])
    task, found = labelled.examples(task.name, data, classes=classes, **columns)
    for each in models:
        task_fits(task, each)
    return task, choose(found, samples, seed)


def _text(data: Any) -> str:
    """The text of a file or a data set, or the texts that were given, a line each."""
    if data is None or isinstance(data, str | Path):
        return joined(development_file(data))
    return "\n".join(data)


def _plain(
    task: Task, data: Any, samples: int | None, seed: int, verbatim: bool = False
) -> list[Any]:
    """The texts or pairs to evaluate on, a seeded choice where there are more than `samples`."""
    if data is None or isinstance(data, str | Path):
        file = development_file(data)
        return lines(file, samples) if verbatim else texts(file, samples, seed)
    if not data:
        what = "texts" if task.kind in ("language", "features") else "sentence pairs"
        raise Usage(f"task {task.name} was given no {what}")
    return choose(data, samples, seed)
