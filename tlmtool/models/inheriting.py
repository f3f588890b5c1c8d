"""What transformers knows of a type by its name, entered for our type of another name too."""

from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    TOKENIZER_MAPPING_NAMES,
)


def same_tokenizer(theirs: str, ours: str) -> None:
    """AutoTokenizer corrects the class in tokenizer_config.json by the type of the model."""
    if theirs in TOKENIZER_MAPPING_NAMES:
        TOKENIZER_MAPPING_NAMES[ours] = TOKENIZER_MAPPING_NAMES[theirs]
    if theirs in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS:
        MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.add(ours)


def same_names(theirs: str, ours: str) -> None:
    """Some types, and some classes, have other names for their weights in files than in memory: an
    expert of a mixture is a file's tensor, and a slice of one in memory."""
    mapping = get_checkpoint_conversion_mapping(theirs)
    if mapping is not None:
        register_checkpoint_conversion_mapping(ours, mapping, overwrite=True)
