"""Raw labels of a table become figures or ids of classes, and names of classes are matched.

A whole number is the same label however it is written: 1, 1.0, "1" or "1.0". Case, blanks, `_` and
`-` of names do not matter. Names of a head also match by other usual words for a class.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tlmtool.failure import NotLoadable, Usage
from tlmtool.tasks.table import Task

WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
MOST = 10_000  # a label from here on is a name, and not the id of a class
SAME = {  # {a word for a class: the word that it counts as}
    "ungrammatical": "unacceptable",
    "incorrect": "unacceptable",
    "notacceptable": "unacceptable",
    "grammatical": "acceptable",
    "correct": "acceptable",
    "neg": "negative",
    "pos": "positive",
    "notduplicate": "notequivalent",
    "notparaphrase": "notequivalent",
    "nonparaphrase": "notequivalent",
    "different": "notequivalent",
    "duplicate": "equivalent",
    "paraphrase": "equivalent",
    "same": "equivalent",
    "entail": "entailment",
    "entails": "entailment",
    "entailed": "entailment",
    "nonentailment": "notentailment",
    "notentail": "notentailment",
    "notentailed": "notentailment",
    "contradict": "contradiction",
    "contradicts": "contradiction",
    "contradictory": "contradiction",
}
NUMBERED = re.compile(r"label[ _-]?\d+", re.ASCII | re.IGNORECASE)  # default names of transformers
Reader = Callable[[str, Any], int | float]


def reader_of(task: Task) -> Reader:
    """A function (where, raw label) -> id or figure; it raises NotLoadable, with `where`, for
    labels that are neither."""
    return _id_of(task) if task.kind == "classification" else _figure_of(task)


def class_names(source: str, labels: Iterable[str]) -> tuple[str, ...]:
    """The names of classes by id, from all labels. Where these are whole numbers from 0 on, each
    number up to the largest is a class, so that the number is the id. Others are sorted.

    Raises NotLoadable where all labels are equal."""
    found = set(labels)
    numbers = {_whole(name) for name in found}
    names = sorted(found) if None in numbers else [str(number) for number in sorted(numbers)]
    if len(names) < 2:
        raise NotLoadable(f"{source}: every label is {_short(names[0])}, two classes are needed")
    if None not in numbers and min(numbers) >= 0 and max(numbers) < MOST:
        return tuple(str(number) for number in range(max(numbers) + 1))
    return tuple(names)


def class_name(where: str, value: Any) -> str:
    """A raw label as text. Raises NotLoadable for what is neither a text nor a whole number."""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if not isinstance(value, str | int):
        raise NotLoadable(f"{where}: the label {_short(value)} is neither a name nor an integer")
    return str(value).strip()


def names_of(config: dict[str, Any], count: int) -> tuple[str, ...]:
    """The names of a head's classes in its config, by `id2label` or else by `label2id`."""
    kept = [config.get(key) for key in ("id2label", "label2id")]
    names, ids = (each if isinstance(each, dict) else {} for each in kept)
    given = {str(k): str(v) for k, v in names.items()}
    if numbered(given.values()):
        other = {str(v): str(k) for k, v in ids.items()}
        given = other if len(other) == count else given
    return tuple(given.get(str(i), f"LABEL_{i}") for i in range(count))


def outputs_in(config: dict[str, Any]) -> int:
    """The number of outputs of a checkpoint's head, by its config.json."""
    names = config.get("id2label")
    return (len(names) if isinstance(names, dict) else 0) or 2


def classes_in(config: dict[str, Any]) -> tuple[str, ...]:
    """The names of the classes of a checkpoint's head, by its config.json; none without a head for
    classes."""
    saved = str((config.get("architectures") or [""])[0])
    has = saved.endswith("ForSequenceClassification")
    return names_of(config, outputs_in(config)) if has else ()


def numbered(names: Iterable[str]) -> bool:
    """Whether all names are defaults such as LABEL_0, which say nothing."""
    return all(map(NUMBERED.fullmatch, names))


def matched(labels: Sequence[str], names: Sequence[str], whose: str) -> list[int] | None:
    """For each label the place of the name that means the same class; a number means the place
    itself. None where no name matches. Raises Usage where only some match, and says `whose` names
    these are."""
    if not names:
        return None
    places = [str(i) for i in range(len(names))]
    if [*labels] == places and not set(names) & set(places):
        return [*range(len(names))]
    if sorted(names) == sorted(places) and not set(labels) & set(places):
        return [names.index(place) for place in places]
    found: set[str] = set()
    for key in (str, _plain, _known):
        ours, theirs = [*map(key, labels)], [*map(key, names)]
        found = found or set(ours) & set(theirs)
        if sorted(ours) == sorted(theirs) and len({*ours}) == len(ours):
            return [theirs.index(each) for each in ours]
    if found:
        raise Usage(
            f"{whose} has the classes {', '.join(names)}; the task has {', '.join(labels)}, and "
            "only some match: name them alike in id2label of config.json"
        )
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\s_]|(?<=.)-", "", name.strip()).lower()


def _known(name: str) -> str:
    return SAME.get(_plain(name), _plain(name))


def _id_of(task: Task) -> Reader:
    """Ids by the name of a class, or by number. A number is the name of a class where classes have
    numbers for names, and else the place of a class."""
    ids = {name: i for i, name in enumerate(task.labels)}
    plain = {_plain(name): i for name, i in ids.items()}
    plain = plain if len(plain) == len(ids) else {}
    by_number = {n: i for name, i in ids.items() if (n := _whole(name)) is not None}
    numbers = by_number or {i: i for i in range(len(task.labels))}

    def read(where: str, value: Any) -> int:
        name = class_name(where, value)
        found = ids.get(name, numbers.get(_whole(name), plain.get(_plain(name))))
        if found is None:
            shown = (name if by_number else f"{name} ({i})" for name, i in [*ids.items()][:9])
            raise NotLoadable(
                f"{where}: the label {_short(name)} is out of range: the classes of {task.name} "
                f"are {', '.join(shown)}{', ...' if len(ids) > 9 else ''}"
            )
        return found

    return read


def _figure_of(task: Task) -> Reader:
    low, high = task.bounds or (-math.inf, math.inf)

    def read(where: str, value: Any) -> float:
        try:
            found = float(value)
        except (TypeError, ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found):
            raise NotLoadable(f"{where}: the label {_short(value)} is not a finite number")
        if not low <= found <= high:
            raise NotLoadable(
                f"{where}: the label {_short(value)} is out of range: scores of {task.name} lie "
                f"between {low:g} and {high:g}"
            )
        return found

    return read


def _whole(name: str) -> int | None:
    """The whole number that a text writes; None for other texts."""
    return int(name.partition(".")[0]) if WHOLE.fullmatch(name) else None


def _short(value: Any) -> str:
    return repr(value[:40] if isinstance(value, str) else value)[:60]
