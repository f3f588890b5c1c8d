"""The schema of learning from a teacher: while fine-tuning, or right after compressing."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting
from tlmtool.tasks.table import LABELLED, SIMILARITY


@dataclass(frozen=True)
class Distillation:
    """A teacher, whose hidden states and outputs the model learns to give."""

    teacher: str | None = setting(
        None,
        "finetune",
        "Model to imitate, such as the one before compression",
        "MODEL",
        reads="model",
    )
    temperature: float = setting(
        2.0, "finetune", "Softmax temperature at which outputs are compared", "T", gt=0
    )


@dataclass(frozen=True)
class Recovery:
    """What a compressed model is trained on and scored by: the rows of `data` score it before and
    after, and with `steps` the dense model is distilled into it."""

    data: str | None = setting(
        None,
        "compress",
        "What is trained on and scored: sentence pairs with scores, texts with labels, or with "
        "--recover plain texts. The development split is scored, or all of a single file where "
        "nothing is trained",
        "PATH",
        "data",
        reads="data",
    )
    task: str | None = setting(
        None,
        "compress",
        f"Task that --data is scored by: {', '.join((SIMILARITY, *LABELLED))}",
        "TASK",
        choices=(SIMILARITY, *LABELLED),
        otherwise="what the classification head was trained for, otherwise similarity",
    )
    steps: int | None = setting(
        None,
        "compress",
        "After compressing, train for this many steps on --data to imitate the original model",
        "STEPS",
        "recover",
        ge=1,
    )
    lr: float | None = setting(
        None,
        "compress",
        "Learning rate",
        "RATE",
        "recover-lr",
        gt=0,
        otherwise="5e-4 for factors, 1e-3 for all",
    )
    train: str | None = setting(
        None,
        "compress",
        "Weights to train: factors or all",
        "WHAT",
        "recover-train",
        choices=("all", "factors"),
        otherwise="factors, or all where attention is replaced",
    )
    batch: int = setting(32, "compress", "Texts per step", "N", "recover-batch", ge=1)
