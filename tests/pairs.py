"""Sentence pairs of a toy language, a tokenizer of its words, and small models that translate."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
)

EN = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "far", "away"]
DE = ["die", "Katze", "saß", "auf", "einer", "Matte", "und", "Hunde", "liefen", "weit", "weg"]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]


def tokenizer(end: bool = True) -> PreTrainedTokenizerFast:
    """One token a word of both languages, the end token behind a text if `end`."""
    ids = {word: i for i, word in enumerate([*SPECIAL, *EN, *DE])}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        made.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", 2)]
        )
    kinds = ("pad_token", "bos_token", "eos_token", "unk_token")
    names = dict(zip(kinds, SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, **names)


def random_model(**more) -> MarianMTModel:
    """A new model of one layer a side; its config, like any that is made new, says that token 0,
    here padding, ends a text that grows too long."""
    torch.manual_seed(0)
    sizes = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0}
    known = {"vocab_size": 26, "d_model": 32, "max_position_embeddings": 64}
    known |= {"dropout": 0.0, "init_std": 0.2}
    return MarianMTModel(MarianConfig(**known | sizes | ends | more)).eval()


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    draw = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(2, 8, (1,), generator=draw))
        words = torch.randint(len(EN), (length,), generator=draw).tolist()
        made.append((" ".join(EN[i] for i in words), " ".join(DE[i] for i in words)))
    return made
