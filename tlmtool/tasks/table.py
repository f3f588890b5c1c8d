"""The tasks, one row each. Adding a row is all that a new labelled task needs."""

from dataclasses import dataclass
from typing import Any, Literal

from tlmtool.tasks.metrics import METRICS, Better, known

Kind = Literal[
    "classification",
    "regression",
    "language",
    "perplexity",
    "similarity",
    "features",
    "translation",
]
Names = tuple[str, ...]
HARNESS = "lm-eval:"  # a task that begins so is one of lm-evaluation-harness


@dataclass(frozen=True)
class Task:
    """What a model is scored on, and trained for where `trained` says so.

    `metrics`: their mean is the score. `words`: what the score is; by default the words of the
    metrics. `beside`: further figures of its reports.

    Of a labelled task, `labels` are the names of the classes by id, and `bounds` the least and the
    largest figure. `texts` and `label`: names that the columns go by, GLUE's and the Hub's.
    `columns`: of a tsv file without a header, `csv`: of such a csv file. `unsure`: labels of
    examples that are left out. `hub`: the data set that is read where no data are named.
    `made`: "module:name" of a function that makes the (text, label) pairs, and `source` says so.
    `reads`: what the data are, as the docs say it.
    """

    name: str
    kind: Kind
    metrics: Names
    labels: Names = ()
    words: str = ""
    beside: Names = ()
    trained: bool = True
    bounds: tuple[float, float] | None = None
    texts: tuple[Names, ...] = ()
    label: Names = ("label",)
    columns: Names | None = None
    csv: Names | None = None
    unsure: tuple[Any, ...] = ()
    hub: str | None = None
    made: str | None = None
    source: str = ""
    reads: str = ""

    @property
    def labelled(self) -> bool:
        """Whether each example has a class or a figure that the model predicts."""
        return self.kind in ("classification", "regression")

    @property
    def metric(self) -> str:
        """'accuracy and f1'."""
        return " and ".join(self.metrics)

    @property
    def better(self) -> Better:
        """Which scores are better."""
        return known(self.metrics[0]).better

    @property
    def what(self) -> str:
        """What the score is, in words: 'the mean of share of classes ... and F1 of class 1'."""
        words = " and ".join(known(name).words for name in self.metrics)
        words = f"the mean of {words}" if len(self.metrics) > 1 else words
        beside = (f"; {name}: {known(name).words}" for name in self.scored_beside)
        return (self.words or words) + "".join(beside)

    @property
    def names(self) -> Names:
        """What `--fail-if` calls the score."""
        also = known(self.metrics[0]).also if len(self.metrics) == 1 else ()
        return (self.metric.replace(" ", "_"), *also)

    @property
    def scored_beside(self) -> Names:
        """Metrics of predictions that are no part of the score, but stand beside it."""
        found = (each.name for each in METRICS.values() if self.kind in each.beside)
        return tuple(name for name in found if name not in self.metrics)

    @property
    def figures(self) -> Names:
        """The figures of its reports beside the score: each metric where there are several."""
        several = self.metrics if len(self.metrics) > 1 else ()
        return (*several, *self.scored_beside, *self.beside)


def _classes(
    name: str, labels: str, metrics: str, *texts: str, label: str = "label", **more: Any
) -> Task:
    """A row of a classification, its names written with blanks, and `|` between two of a column."""
    columns = tuple(tuple(each.split("|")) for each in texts)
    more |= {"texts": columns, "label": tuple(label.split("|"))}
    return Task(name, "classification", tuple(metrics.split()), tuple(labels.split()), **more)


PAIR = ("sentence1", "sentence2")
GLUE_TABLE = "GLUE's tsv, with its header"
LINES = "texts, one a line; with `--pack` the text as it stands, in full blocks"
ENTAILED = "entailment not_entailment"
HUB = "nyu-mll/glue"
OWN = ("label", "score")  # names of the label's column in a table of one's own
_GLUE = (  # Wang et al. 2019
    _classes(
        "cola",
        "unacceptable acceptable",
        "matthews",
        "sentence",
        columns=("source", "label", "star", "sentence"),
        hub=HUB,
        reads="GLUE's tsv, without a header: source, label, star, sentence",
    ),
    _classes("sst2", "negative positive", "accuracy", "sentence", hub=HUB, reads=GLUE_TABLE),
    _classes(
        "mrpc",
        "not_equivalent equivalent",
        "accuracy f1",
        "#1 String|sentence1",
        "#2 String|sentence2",
        label="Quality|label",
        hub=HUB,
        reads=GLUE_TABLE,
    ),
    Task(
        "stsb",
        "regression",
        ("pearson", "spearman"),
        bounds=(0.0, 5.0),
        texts=tuple((name,) for name in PAIR),
        label=("score", "label"),
        csv=(*PAIR, "score"),
        hub=HUB,
        reads=f"{GLUE_TABLE}, or a csv without one: sentence1, sentence2, score",
    ),
    _classes("rte", ENTAILED, "accuracy", *PAIR, hub=HUB, reads=GLUE_TABLE),
    _classes("qnli", ENTAILED, "accuracy", "question", "sentence", hub=HUB, reads=GLUE_TABLE),
    _classes(
        "qqp",
        "not_duplicate duplicate",
        "accuracy f1",
        "question1",
        "question2",
        label="is_duplicate|label",
        hub=HUB,
        reads=GLUE_TABLE,
    ),
    _classes(
        "mnli",
        "entailment neutral contradiction",
        "accuracy",
        "sentence1|premise",
        "sentence2|hypothesis",
        label="gold_label|label",
        unsure=("-", "-1", -1),
        hub=HUB,
        reads=f"{GLUE_TABLE} (`dev_matched.tsv`); rows without agreement, `-`, are left out",
    ),
)
_OTHERS = (
    Task(
        "classification",
        "classification",
        ("accuracy",),
        label=OWN,
        reads="a table; the classes are the labels of its training rows, names or whole numbers",
    ),
    Task("regression", "regression", ("pearson", "spearman"), label=OWN, reads="a table"),
    _classes(
        "grammar",
        "unacceptable acceptable",
        "matthews",
        "sentence",
        made="tlmtool.data.grammar:sentences",
        source="an acceptability task that tlm generates by a grammar",
        reads="nothing: 4,000 sentences made by a grammar, half of them with one planted error",
    ),
    Task(
        "mlm",
        "language",
        ("nll",),
        words="masked-language-model loss: mean NLL in nats of 15 % of each text's tokens "
        "(one at least; 80 % masked, 10 % random, 10 % kept)",
        reads=LINES,
        beside=("perplexity", "tokens", "blocks"),
    ),
    Task(
        "clm",
        "language",
        ("nll",),
        words="language-model loss: mean NLL in nats of each next token within a text",
        reads=LINES,
        beside=("perplexity", "tokens", "blocks"),
    ),
    Task(
        "perplexity",
        "perplexity",
        ("perplexity",),
        words="e to the power of the mean NLL in nats of each token of a text but the first one; "
        "the text is tokenized whole and read in windows",
        reads="a file with any text",
        beside=("loss", "tokens"),
        trained=False,
    ),
    Task(
        "similarity",
        "similarity",
        ("spearman",),
        words="Spearman correlation of scores and cosines of last hidden states, pooled ",
        trained=False,
        reads="a table of sentence1, sentence2, score",
        texts=tuple((name,) for name in PAIR),
        label=("score", "label"),
        columns=(*PAIR, "score"),
        csv=(*PAIR, "score"),
    ),
    Task(
        "features",
        "features",
        ("relative error",),
        words="relative Frobenius error of the last hidden state, over all tokens but padding",
        trained=False,
        reads="texts, one a line",
    ),
    Task(
        "translation",
        "translation",
        ("BLEU",),
        words="corpus BLEU of what the model generates; loss: mean NLL in nats of a target's "
        "token, after the true ones; sacrebleu ",
        reads="aligned files, or pairs in a table, with `--languages en-de`",
        beside=("loss", "perplexity", "beams"),
    ),
)
TASKS = {task.name: task for task in (*_GLUE, *_OTHERS)}
GLUE = {task.name: task for task in _GLUE}
LABELLED = tuple(name for name, task in TASKS.items() if task.labelled)
LANGUAGE = tuple(name for name, task in TASKS.items() if task.kind == "language")
TRAINED = tuple(name for name, task in TASKS.items() if task.trained)
PERPLEXITY, SIMILARITY, TRANSLATION = "perplexity", "similarity", "translation"
