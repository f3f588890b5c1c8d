"""What a model is taught by another on: sentences, and the score that tells how well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from tlmtool.data.language import HELD, apart, language_splits
from tlmtool.data.tables import DEV, TRAIN, named
from tlmtool.data.tasks import Pair, sentence_pairs
from tlmtool.measuring.evaluation import evaluate

TABLES = (".csv", ".tsv")


class Lesson(NamedTuple):
    """Sentences to learn on, and what is measured: `pairs` of a development set, or texts held
    out of the sentences."""

    sentences: list[str]
    held: list[str]
    pairs: list[Pair]
    source: str

    def measured(self) -> list[str]:
        """At most 64 texts that are not learned on."""
        return self.held or _sentences(self.pairs)[:: max(1, len(self.pairs) // 32)][:HELD]


def lesson(data: str | None, seed: int) -> Lesson:
    """Of a file of texts, one a line; of a csv or tsv of sentence pairs, whose scores are not
    read; or of a folder of such with a train and a development set. Raises NotLoadable where
    nothing is left to measure on."""
    path = Path(data).expanduser() if data else None
    if path and path.is_dir() and (train := named(path, TRAIN, TABLES)):
        dev = named(path, DEV, TABLES)
        pairs = sentence_pairs(dev) if dev else []
        return _of_pairs(sentence_pairs(train), pairs, str(data))
    if path and path.is_file() and path.suffix.lower() in TABLES:
        return _of_pairs(sentence_pairs(path), [], str(data))
    rest, held, source = language_splits(data)
    return Lesson(rest, held[:: -(-len(held) // HELD)], [], source)


def _of_pairs(train: list[Pair], pairs: list[Pair], source: str) -> Lesson:
    found = _sentences(train)
    rest, held = (found, []) if pairs else apart(found, source)
    return Lesson(rest, held, pairs, source)


def _sentences(pairs: list[Pair]) -> list[str]:
    return list(dict.fromkeys(s for first, second, _ in pairs for s in (first, second)))


def measure_of(
    found: Lesson, teacher: nn.Module, tokenizer: Any, max_length: int
) -> tuple[str, str, Callable[[nn.Module], float]]:
    """(metric, which is better, model -> score): Spearman on the pairs, or else the error of the
    last hidden state against the teacher's on the held texts."""
    task, examples = ("similarity", found.pairs) if found.pairs else ("features", found.held)
    against = None if found.pairs else teacher

    def score(model: nn.Module) -> float:
        settings = {"against": against, "max_length": max_length}
        return evaluate(task, model, tokenizer, examples, **settings)["models"][0]["score"]

    return ("spearman", "higher", score) if found.pairs else ("feature error", "lower", score)
