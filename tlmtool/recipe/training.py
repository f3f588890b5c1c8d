"""The schema of a training: its task, its settings, its teacher, its strategy."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting

LABELLED = (
    *("cola", "sst2", "mrpc", "stsb", "rte", "qnli", "qqp", "mnli"),
    *("classification", "regression", "grammar"),
)


@dataclass(frozen=True)
class Training:
    """What a model is fine-tuned on, and how: AdamW, warm-up, a schedule, clipping."""

    task: str | None = setting(
        None,
        "finetune",
        "cola sst2 mrpc stsb rte qnli qqp mnli, classification, regression, mlm, clm, translation, "
        "grammar",
        "TASK",
    )
    data: str | None = setting(
        None, "finetune", "a GLUE folder, a file or folder of examples or texts", "PATH|DATASET"
    )
    languages: str | None = setting(
        None,
        "finetune evaluate",
        "of translation: source and target, such as en-de for files train.en and train.de",
        "PAIR",
        pattern=r"^[^\s/-]+-[^\s/-]+$",
        what="a pair of languages such as en-de",
    )
    beams: int = setting(
        4,
        "finetune evaluate",
        "of translation: hypotheses that the search keeps; it is for BLEU, measured at the end, "
        "not for the loss on the way",
        "N",
        ge=1,
    )
    label_smoothing: float = setting(
        0.0, "finetune", "of translation: share of a label spread over all", "SHARE", ge=0, lt=1
    )
    text: str | None = setting(
        None, "finetune evaluate", "column of the text", "COLUMN", "text-column"
    )
    pair: str | None = setting(
        None, "finetune evaluate", "column of a second text", "COLUMN", "pair-column"
    )
    label: str | None = setting(
        None, "finetune evaluate", "column of the label", "COLUMN", "label-column"
    )
    epochs: float = setting(3.0, "finetune", "times that all examples are seen", "N", gt=0)
    steps: int | None = setting(
        None, "finetune", "steps of the optimizer, in place of epochs", "N", ge=1
    )
    batch: int = setting(
        32, "finetune", "examples of a step, over all micro-batches and processes", "N", ge=1
    )
    accumulate: int = setting(
        1, "finetune", "micro-batches that a step's batch is cut into", "N", ge=1
    )
    max_length: int = setting(128, "finetune", "tokens of a text used at most", "N", ge=8)
    pack: bool = setting(
        False,
        "finetune evaluate",
        "mlm, clm: read the text in full blocks of max-length, not line by line",
    )
    lr: float | None = setting(
        None, "finetune", "rate of AdamW; of itself 5e-5, or 5e-4 where a teacher is", "RATE", gt=0
    )
    schedule: str = setting(
        "linear",
        "finetune",
        "course of the rate after warm-up: linear, cosine or constant",
        "NAME",
        choices=("linear", "cosine", "constant"),
    )
    warmup: float = setting(0.1, "finetune", "steps of warm-up, below 1 a share of all", "N", ge=0)
    decay: float = setting(0.01, "finetune", "weight decay", "RATE", "weight-decay", ge=0)
    clip: float = setting(1.0, "finetune", "largest norm of the gradient; 0 for any", "NORM", ge=0)
    dropout: float | None = setting(
        None, "finetune", "every dropout of the model; of itself its config's", "SHARE", ge=0, lt=1
    )
    train: str | None = setting(
        None,
        "finetune",
        "what moves: all, or factors (of itself so where a teacher is)",
        "WHAT",
        choices=("all", "factors"),
    )
    precision: str = setting(
        "no",
        "finetune",
        "mixed precision: no or bf16",
        "NAME",
        choices=("no", "bf16"),
    )
    checkpointing: bool = setting(
        False, "finetune", "recompute activations in the backward pass: less memory"
    )
    evaluate_every: int | None = setting(
        None, "finetune", "steps between evaluations; of itself an epoch", "N", ge=1
    )
    keep_best: bool = setting(
        False, "finetune", "end with the best model seen, chosen on 10 % of train set aside"
    )
    patience: int | None = setting(
        None, "finetune", "stop after so many evaluations without a better one", "N", ge=1
    )
    save_every: int = setting(100, "finetune", "steps between saved states", "N", ge=1)
    resume: bool = setting(False, "finetune", "go on where a killed run was saved")
    tracker: str | None = setting(
        None, "finetune", "also log to tensorboard, beside --out", "NAME", choices=("tensorboard",)
    )


@dataclass(frozen=True)
class Fresh:
    """A new model of random weights, instead of a MODEL; keys of its config.json by
    `--set config.KEY=VALUE`."""

    from_config: str | None = setting(
        None,
        "finetune",
        "train new weights instead: of a family (its model_type), or of a config.json",
        "FAMILY|PATH",
    )
    tokenizer: str | None = setting(
        None, "finetune", "of the new model; of itself trained on the data", "PATH|ID"
    )
    tokens: str = setting(
        "bpe", "finetune", "of a trained tokenizer: bpe or word", "KIND", choices=("bpe", "word")
    )
    vocabulary: int = setting(
        8000, "finetune", "of a trained tokenizer, at most", "V", "vocab-size", ge=300
    )


@dataclass(frozen=True)
class Distillation:
    """A teacher whose hidden states, and outputs, the model is to give."""

    teacher: str | None = setting(
        None, "finetune", "the model to learn from, such as the one before compression", "MODEL"
    )
    temperature: float = setting(2.0, "finetune", "of the outputs of both", "T", gt=0)


@dataclass(frozen=True)
class Recovery:
    """Distillation of the dense model into the compressed one, right after compressing."""

    steps: int | None = setting(
        None,
        "compress",
        "then teach it by the dense model, so many steps",
        "STEPS",
        "recover",
        ge=1,
    )
    data: str | None = setting(
        None, "compress", "texts or sentence pairs to teach on; its dev pairs score", "PATH", "data"
    )
    lr: float | None = setting(
        None,
        "compress",
        "rate of the teaching; of itself 5e-4 for factors, 1e-3 for all",
        "RATE",
        "recover-lr",
        gt=0,
    )
    train: str | None = setting(
        None,
        "compress",
        "what it moves: factors, or all (of itself so where attention is converted)",
        "WHAT",
        "recover-train",
        choices=("all", "factors"),
    )
    batch: int = setting(32, "compress", "texts of a step", "N", "recover-batch", ge=1)
