"""The schema of a training: its task, its data, its optimizer, what it saves."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting
from tlmtool.tasks.table import LANGUAGE, TRAINED

DATA, OPTIMIZER, SAVING = "Data", "Optimizer", "Evaluating and saving"  # parts of the help


@dataclass(frozen=True)
class Training:
    """What a model is fine-tuned on, and how: AdamW, warm-up, a schedule, clipping."""

    task: str | None = setting(
        None,
        "finetune",
        f"What to train for: {', '.join(TRAINED)}",
        "TASK",
    )
    data: str | None = setting(
        None,
        "finetune",
        "Training data: a folder or file of examples or texts, or a data set of the Hub",
        "SOURCE",
        reads="data",
        otherwise="a GLUE task from the Hub, or a text that comes with tlm for mlm and clm",
    )
    lr: float | None = setting(
        None,
        "finetune",
        "Learning rate of AdamW",
        "RATE",
        gt=0,
        otherwise="5e-5, or 5e-4 with --teacher",
    )
    epochs: float = setting(3.0, "finetune", "Passes over the training data", "N", gt=0)
    steps: int | None = setting(
        None, "finetune", "Steps of the optimizer, instead of --epochs", "N", ge=1
    )
    batch: int = setting(
        32, "finetune", "Examples per step, over all micro-batches and processes", "N", ge=1
    )
    max_length: int = setting(
        128, "finetune", "Tokens to use of each text; the rest is cut off", "N", ge=8
    )
    train: str | None = setting(
        None,
        "finetune",
        "Weights to train: all, or factors of a compressed model",
        "WHAT",
        choices=("all", "factors"),
        otherwise="all, or factors with --teacher",
    )
    text: str | None = setting(
        None,
        "finetune evaluate compress",
        "Column of the text",
        "COLUMN",
        "text-column",
        panel=DATA,
    )
    pair: str | None = setting(
        None,
        "finetune evaluate compress",
        "Column of a second text",
        "COLUMN",
        "pair-column",
        panel=DATA,
    )
    label: str | None = setting(
        None,
        "finetune evaluate compress",
        "Column of the label",
        "COLUMN",
        "label-column",
        panel=DATA,
    )
    pack: bool = setting(
        False,
        "finetune evaluate",
        f"For {' and '.join(LANGUAGE)}: cut the text into full blocks of --max-length tokens "
        "instead of reading it line by line",
        panel=DATA,
    )
    eos: bool = setting(
        False,
        "finetune evaluate",
        "With --pack: leave out blank lines, and end each line by the end token",
        panel=DATA,
    )
    languages: str | None = setting(
        None,
        "finetune evaluate",
        "For translation: source and target, such as en-de for files train.en and train.de",
        "PAIR",
        panel=DATA,
        pattern=r"^[^\s/-]+-[^\s/-]+$",
        what="a pair of languages such as en-de",
    )
    beams: int = setting(
        4,
        "finetune evaluate",
        "For translation: beams of the search that makes the translations for BLEU",
        "N",
        panel=DATA,
        ge=1,
    )
    label_smoothing: float = setting(
        0.0,
        "finetune",
        "For translation: share of each label that is spread over all tokens",
        "SHARE",
        panel=DATA,
        ge=0,
        lt=1,
    )
    schedule: str = setting(
        "linear",
        "finetune",
        "Learning rate after warm-up: linear, cosine or constant",
        "NAME",
        panel=OPTIMIZER,
        choices=("linear", "cosine", "constant"),
    )
    warmup: float = setting(
        0.1,
        "finetune",
        "Steps of warm-up; below 1 a share of all steps",
        "N",
        panel=OPTIMIZER,
        ge=0,
    )
    decay: float = setting(
        0.01, "finetune", "Weight decay", "RATE", "weight-decay", panel=OPTIMIZER, ge=0
    )
    clip: float = setting(
        1.0,
        "finetune",
        "Largest norm of the gradient; 0 for no limit",
        "NORM",
        panel=OPTIMIZER,
        ge=0,
    )
    dropout: float | None = setting(
        None,
        "finetune",
        "Dropout of every layer",
        "SHARE",
        panel=OPTIMIZER,
        ge=0,
        lt=1,
        otherwise="that of the model's config",
    )
    precision: str = setting(
        "no",
        "finetune",
        "Mixed precision: no or bf16",
        "NAME",
        panel=OPTIMIZER,
        choices=("no", "bf16"),
    )
    accumulate: int = setting(
        1,
        "finetune",
        "Micro-batches that each batch is split into; more need less memory",
        "N",
        panel=OPTIMIZER,
        ge=1,
    )
    checkpointing: bool = setting(
        False,
        "finetune",
        "Recompute activations in the backward pass: slower, with less memory",
        panel=OPTIMIZER,
    )
    evaluate_every: int | None = setting(
        None,
        "finetune",
        "Steps between evaluations",
        "N",
        panel=SAVING,
        ge=1,
        otherwise="those of an epoch",
    )
    keep_best: bool = setting(
        False,
        "finetune",
        "Write the best model that was evaluated, chosen on a tenth of the training examples that "
        "is set aside",
        panel=SAVING,
    )
    patience: int | None = setting(
        None,
        "finetune",
        "Stop after this many evaluations without a better one",
        "N",
        panel=SAVING,
        ge=1,
    )
    save_every: int = setting(
        100, "finetune", "Steps between saved states for --resume", "N", panel=SAVING, ge=1
    )
    resume: bool = setting(
        False,
        "compress finetune",
        "Continue a run that was stopped from its last saved state",
        panel="Output",
    )
    tracker: str | None = setting(
        None,
        "finetune",
        "Also write logs for tensorboard, beside --out",
        "NAME",
        panel=SAVING,
        choices=("tensorboard",),
    )

    @property
    def verbatim(self) -> bool:
        """Whether text is read as it stands, with line ends and blank lines."""
        return self.pack and not self.eos
