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
    temperature: float | None = setting(
        None,
        "finetune",
        "Softmax temperature at which outputs are compared",
        "T",
        gt=0,
        otherwise="2, or 1 for a causal language model",
    )


@dataclass(frozen=True)
class Recovery:
    """What a compressed model is trained on and scored by: the rows of `data` score it before and
    after, and with `steps` the dense model is distilled into it.

    A causal language model learns on windows of joined text, by the divergence of its outputs from
    those of the dense model; the other settings of how it learns are for such a model alone."""

    data: str | None = setting(
        None,
        "compress",
        "What is trained on and scored: sentence pairs with scores, texts with labels, or with "
        "--recover plain texts. The development split is scored, or all of a single file where "
        "nothing is trained",
        "PATH",
        "data",
        reads="data",
        otherwise="nothing is scored, and --recover trains on the text of --calibration",
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
        "After compressing, train for this many steps to imitate the original model",
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
        otherwise="5e-4 for factors, 1e-3 for all; for a causal language model 3e-4 and 1e-4",
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
    batch: int | None = setting(
        None,
        "compress",
        "Texts per step, or windows for a causal language model",
        "N",
        "recover-batch",
        ge=1,
        otherwise="32 texts, 8 windows",
    )
    text: str | None = setting(
        None,
        "compress",
        "Text that a causal language model is trained on: a file or a data set",
        "SOURCE",
        "recover-data",
        reads="data",
        otherwise="that of --data, otherwise that of --calibration; never what is scored",
    )
    window: int | None = setting(
        None,
        "compress",
        "Tokens of a window that a causal language model is trained on",
        "N",
        "recover-window",
        ge=2,
        otherwise="256, or its context where that is shorter",
    )
    schedule: str = setting(
        "linear",
        "compress",
        "Learning rate after warm-up: linear, cosine or constant",
        "NAME",
        "recover-schedule",
        choices=("linear", "cosine", "constant"),
    )
    warmup: float = setting(
        0.1, "compress", "steps of warm-up; below 1 a share of all steps", flag=None, ge=0
    )
    precision: str | None = setting(
        None,
        "compress",
        "numbers of the passes, float32 or bfloat16; weights are trained in float32",
        flag=None,
        choices=("float32", "bfloat16"),
        otherwise="bfloat16 for a causal language model on a device that computes in it",
    )
    layers: tuple[str, ...] = setting(
        (),
        "compress",
        "patterns of module names, such as 'layers.2?.*'; only these are trained",
        flag=None,
        otherwise="all that train names",
    )
    divergence: float = setting(
        1.0,
        "compress",
        "weight of the divergence of the outputs, for a causal language model",
        flag=None,
        ge=0,
    )
    hidden: float = setting(
        0.0,
        "compress",
        "weight of the error of the hidden states, for a causal language model",
        flag=None,
        ge=0,
    )
