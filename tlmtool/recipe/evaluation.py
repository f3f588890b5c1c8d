"""The schema of evaluating: the task, its data, the models that are scored."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting
from tlmtool.tasks.table import HARNESS, TASKS


@dataclass(frozen=True)
class Evaluation:
    """How good a model is, and how much better or worse than a baseline."""

    task: str | None = setting(
        None,
        "evaluate",
        f"What to measure: {', '.join(TASKS)}; or {HARNESS}NAME, a task of lm-evaluation-harness "
        "such as lm-eval:arc_easy",
        "TASK",
        choices=tuple(TASKS),
        prefix=HARNESS,
    )
    data: str | None = setting(
        None,
        "evaluate",
        "A file with one text per line; for perplexity a file with any text; for other tasks as "
        "finetune reads it; for tasks of lm-evaluation-harness a folder with such tasks",
        "SOURCE",
        reads="data",
        otherwise="as in finetune; for perplexity and features a text that comes with tlm",
    )
    baseline: str | None = setting(
        None,
        "evaluate",
        "Second model to score; the difference gets a paired 95 % interval",
        "MODEL",
        reads="model",
    )
    against: str | None = setting(
        None,
        "evaluate",
        "For the task features: the model whose features are taken as correct",
        "MODEL",
        reads="model",
    )
    out: str | None = setting(
        None,
        "evaluate",
        "Add the figures to the report and card of this checkpoint, which tlm wrote: MODEL itself, "
        "or a copy with the same weights. Its other files stay as they are",
        "CHECKPOINT",
        reads="checkpoint",
        otherwise="they are only printed",
    )
    batch: int = setting(32, "evaluate", "Texts per batch", "N", ge=1)
    samples: int | None = setting(
        None, "evaluate", "Largest number of examples to use", "N", ge=1, otherwise="all"
    )
    max_length: int = setting(
        128, "evaluate", "Tokens to use of each text; the rest is cut off", "N", ge=8
    )
    window: int | None = setting(
        None,
        "evaluate",
        "For perplexity: tokens that the model reads at once",
        "N",
        ge=2,
        otherwise="2048, or the context of a model where that is shorter",
    )
    stride: int | None = setting(
        None,
        "evaluate",
        "For perplexity: tokens from one window to the next; fewer than --window give each token "
        "more context, and take longer",
        "N",
        ge=1,
        otherwise="as many as --window",
    )
    tokens: int | None = setting(
        None,
        "evaluate",
        "For perplexity: how many tokens of the text to read, from its start",
        "N",
        ge=2,
        otherwise="all",
    )
