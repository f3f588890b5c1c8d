"""The schema of a new model: its family and its tokenizer."""

from dataclasses import dataclass

from tlmtool.recipe.setting import setting


@dataclass(frozen=True)
class Fresh:
    """A new model with random weights, instead of a MODEL. Keys of its config.json are given by
    `--set config.KEY=VALUE`."""

    from_config: str | None = setting(
        None,
        "finetune",
        "Train a new model with random weights instead of MODEL: a model type of transformers, or "
        "a config.json. --set config.KEY=VALUE changes a key of its config.json",
        "TYPE|PATH",
        reads="model files",
    )
    tokenizer: str | None = setting(
        None,
        "finetune",
        "Tokenizer of the new model",
        "PATH|ID",
        reads="model files",
        otherwise="one that is trained on the data",
    )
    tokens: str = setting(
        "bpe",
        "finetune",
        "Kind of tokenizer to train: bpe or word",
        "KIND",
        choices=("bpe", "word"),
    )
    vocabulary: int = setting(
        8000,
        "finetune",
        "Largest vocabulary of a tokenizer that is trained",
        "V",
        "vocab-size",
        ge=300,
    )
