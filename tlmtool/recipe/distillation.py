"""The schema of learning from a teacher: while fine-tuning, or right after compressing."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting


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
    """Distillation of the dense model into the compressed one, right after compressing."""

    steps: int | None = setting(
        None,
        "compress",
        "After compressing, train for this many steps to imitate the original model",
        "STEPS",
        "recover",
        ge=1,
    )
    data: str | None = setting(
        None,
        "compress",
        "Texts or sentence pairs for --recover; a dev split of pairs also scores the result",
        "PATH",
        "data",
        reads="data",
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
