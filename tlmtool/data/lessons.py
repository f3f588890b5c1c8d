"""What a model is trained on without labels, and what scores it: one source of data for both.

Texts, one a line, score nothing. Tables of sentence pairs with scores, or of texts with labels, are
split as for `finetune`: the training rows give the sentences, the development rows the score.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from tlmtool.data.labelled import TEXT, Example, Splits, examples, pairs_of, splits
from tlmtool.data.language import HELD, Joined, apart, joined_split, language_splits
from tlmtool.data.rows import column_of, columns_of, read_tables, text_of
from tlmtool.data.tables import SUFFIXES, TRAIN, split_file
from tlmtool.data.text import place
from tlmtool.failure import Failure, NotLoadable
from tlmtool.tasks.table import PAIR, SIMILARITY, Task

BATCH = 32  # texts of a step of --recover; more learn more in a step, which takes longer
Scored = Example | tuple[str, str, float]


class Lesson(NamedTuple):
    """Sentences to learn from, and what is measured.

    `scored`: rows of `task`, none of whose texts is among the sentences. Without a task, `held` are
    texts that are held out of the sentences, and `why` says why no row is scored, where there are
    rows. `source`: where all of it comes from.
    """

    sentences: list[str]
    held: list[str]
    task: Task | None
    scored: list[Scored]
    source: str
    why: str = ""

    def measured(self) -> list[str]:
        """At most 64 texts that are not among the sentences."""
        found = self.held or texts_of(self.scored)
        return found[:: max(1, -(-len(found) // HELD))]


def lesson(
    data: str | None,
    *,
    task: str | None = None,
    heads: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    columns: Mapping[str, str | None] | None = None,
    whole: bool = False,
    tail: bool = False,
) -> Lesson:
    """The lesson in a file, a folder, or a data set of the Hub.

    `task` is what the rows are scored by. By default it is the first of `heads` that reads them,
    tasks of a model that has a head for labels, with its `classes`; otherwise similarity. Where
    none fits the table, nothing is scored. `columns`: names of columns, {"text", "pair", "label"}.
    With `whole`, all rows of a single file are scored, and there may be no sentences. With `tail`,
    the last lines of a text are held out, as of `joined_lesson`.

    A data set of the Hub is read as texts where there is no `task`. Raises NotLoadable for data
    that are missing or malformed, or too few to set some aside.
    """
    if _is_text(data, task):
        return lesson_of_texts(data, tail)
    found = _lesson(data, task, heads, classes, dict(columns or {}), whole)
    if not (found.sentences or whole):
        raise NotLoadable(f"{data}: every text of its training rows is among the scored ones")
    return found


def lesson_of_texts(data: str | None, tail: bool = False) -> Lesson:
    """The lesson in plain texts, by default those that come with tlm. Nothing of it is scored."""
    rest, held, source = language_splits(data, tail)
    return Lesson(rest, held[:: -(-len(held) // HELD)], None, [], source)


def joined_lesson(found: Lesson, data: str | None) -> Joined:
    """The text of a lesson in `data`, joined, as a causal language model reads it, and that held
    out of it: the tail of a text, or the rows of a table that are not learned from."""
    if _is_text(data, found.task and found.task.name):
        return joined_split(data)
    rest, held = ("\n".join(each) for each in (found.sentences, found.measured()))
    return Joined(rest, held, found.source, f"texts of {found.source} that are not learned from")


def _is_text(data: str | None, task: str | None) -> bool:
    """Whether data are texts, and not a table."""
    path = place(data) if data else None
    table = path is not None and (
        split_file(path, TRAIN) is not None if path.is_dir() else path.suffix.lower() in SUFFIXES
    )
    return not table and task is None


def _lesson(
    data: str | None,
    task: str | None,
    heads: tuple[str, ...],
    classes: tuple[str, ...],
    columns: dict[str, str | None],
    whole: bool,
) -> Lesson:
    if task is not None:
        return _scored(task, data, columns, classes, whole)
    refused: list[Failure] = []
    for name in (*heads, SIMILARITY):
        try:
            return _scored(name, data, columns, classes, whole)
        except Failure as failure:  # it is no table of this task
            refused.append(failure)
    with suppress(Failure):
        return _unscored(data, columns, refused[-1])
    raise NotLoadable(f"{refused[-1]}; rows of another task, such as cola, need --task NAME")


def _scored(
    task: str,
    data: str | None,
    columns: dict[str, str | None],
    classes: tuple[str, ...],
    whole: bool,
) -> Lesson:
    """The lesson whose development rows are scored by a task."""
    path = place(data) if data else None
    if whole and path is not None and path.is_file():
        row, dev = examples(task, data, classes=classes, **columns)
        found = Splits(row, [], dev, str(data))
    else:
        found = splits(task, data, classes=classes, **columns)
    scored: list[Scored] = [*found.dev]
    if task == SIMILARITY:
        scored = [*pairs_of(found.dev, found.source)]
    sentences = _without(texts_of(found.train), texts_of(scored))
    return Lesson(sentences, [], found.task, scored, found.source)


def _unscored(data: str | None, columns: dict[str, str | None], why: Failure) -> Lesson:
    """The texts of a table with nothing that can be scored."""
    text, pair = columns.get("text"), columns.get("pair")
    train, dev, source = read_tables("classification", data, (text, pair, None))
    names = [column_of(train, text, TEXT, "text")]
    if pair or (names == list(PAIR[:1]) and PAIR[1] in columns_of(train)):
        names.append(column_of(train, pair, PAIR[1:], "pair"))
    read = (text_of(where, row, name) for where, row in [*train, *(dev or [])] for name in names)
    rest, held = apart(list(dict.fromkeys(read)), source)
    return Lesson(rest, held[:: -(-len(held) // HELD)], None, [], source, str(why))


def texts_of(rows: list[Scored] | list[Example]) -> list[str]:
    """The texts of rows, each once."""
    both = (text for first, second, _ in rows for text in (first, second))
    return list(dict.fromkeys(text.strip() for text in both if text is not None))


def _without(sentences: list[str], scored: list[str]) -> list[str]:
    taken = set(scored)
    return [each for each in sentences if each not in taken]
