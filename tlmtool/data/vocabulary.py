"""A tokenizer trained on texts: byte-level BPE, or one token a word."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tlmtool.failure import NotLoadable

SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
FRAMES = {  # {how a model reads: the tokens around a text}
    "mlm": "<s> $A </s>",
    "seq2seq": "$A </s>",
    "clm": "$A",
}
LEAST = 2  # a word that is met fewer times has no token of its own


def trained(texts: list[str], kind: str, size: int, reads: str, longest: int | None) -> Any:
    """A tokenizer of at most `size` tokens, trained on `texts`.

    `kind`: `bpe` (of bytes, so that no text is unknown) or `word` (split at blanks and punctuation;
    rare words are unknown). `reads`: `mlm`, `clm` or `seq2seq`, on which the tokens around a text
    depend. Raises NotLoadable where no word is met often enough.
    """
    special = list(SPECIAL.values())
    if kind == "bpe":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        settings = {"vocab_size": size, "initial_alphabet": alphabet}
        trainer: Any = trainers.BpeTrainer(**settings, special_tokens=special, show_progress=False)
    else:
        made = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        settings = {"vocab_size": size, "min_frequency": LEAST}
        trainer = trainers.WordLevelTrainer(**settings, special_tokens=special, show_progress=False)
    made.train_from_iterator(texts, trainer)
    if made.get_vocab_size() <= len(special):
        raise NotLoadable(f"no word stands {LEAST} times in the {len(texts)} texts: try bpe")
    ids = [(token, made.token_to_id(token)) for token in special]
    pair = FRAMES[reads] + (" $B:1 </s>:1" if reads == "mlm" else " $B:1")
    made.post_processor = processors.TemplateProcessing(
        single=FRAMES[reads], pair=pair, special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=longest or int(1e30),
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )
