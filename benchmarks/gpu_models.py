"""Makes the model that a part of benchmarks/gpu.sh compresses, then runs tlm on it.

python benchmarks/gpu_models.py 1b FOLDER compress FOLDER --keep 0.8 ...

`1b` has the shape of Llama-3.2-1B and `smollm2` that of smollm2, in random bfloat16. `none` makes
no model: FOLDER is one already.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from tlmtool.cli import run
from tlmtool.data import reading

SHAPES = {
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
    },
    "smollm2": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    },
    "pico": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16384,
    },
}  # fmt: skip


def words(size: int) -> PreTrainedTokenizerFast:
    """One token a word of the shipped text, as far as the vocabulary of the model reaches."""
    known = dict.fromkeys(word for text in reading.texts() for word in text.split())
    vocabulary = {word: n for n, word in enumerate(["[UNK]", "[END]", *known][:size])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = {"eos_token": "[END]", "pad_token": "[END]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **ends)


def make(name: str, folder: Path) -> None:
    """Write a model of a shape, with a tokenizer."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = LlamaConfig(**SHAPES[name], tie_word_embeddings=True, eos_token_id=1, pad_token_id=1)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    words(config.vocab_size).save_pretrained(folder)


if __name__ == "__main__":
    shape, folder, *command = sys.argv[1:]
    if shape != "none":
        make(shape, Path(folder))
    sys.exit(run(command))
