"""What tests of GGUF files share: a pico model written as such a file, by the package gguf."""

from pathlib import Path

import gguf
import numpy as np
from conftest import pico
from gguf.quants import quantize
from tokenizers import pre_tokenizers
from transformers import PreTrainedModel

FAMILY = "qwen2"  # its tensors are in a file as they are in the model
KIND = gguf.GGMLQuantizationType
END = "<|endoftext|>"
VOCABULARY = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab", END]


def model(**more) -> PreTrainedModel:
    """The model that is written: a token for each byte, sizes that a block of 32 numbers fits."""
    sizes = {"vocab_size": len(VOCABULARY), "intermediate_size": 64, **more}
    return pico(FAMILY, "lm", **sizes, tie_word_embeddings=True)


def written(file: Path, made: PreTrainedModel, kind: KIND = KIND.F32, **fields) -> Path:
    """The model as a GGUF file with matrices of one type. `fields` are more of its metadata."""
    config, writer = made.config, gguf.GGUFWriter(file, FAMILY)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_file_type(
        gguf.LlamaFileType[f"{'ALL' if kind == KIND.F32 else 'MOSTLY'}_{kind.name}"]
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([1] * (len(VOCABULARY) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(VOCABULARY) - 1)
    for key, value in fields.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_string
        add(key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, len(made.model.layers))
    for key, value in made.state_dict().items():
        name, end = key.rsplit(".", 1)
        if (tensor := names.get_name(name)) and key != "lm_head.weight":
            numbers = value.float().numpy()
            own = kind if numbers.ndim == 2 else KIND.F32
            writer.add_tensor(f"{tensor}.{end}", quantize(numbers, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def rounded(value: np.ndarray, kind: KIND) -> np.ndarray:
    """A matrix after a way through a type."""
    return gguf.dequantize(quantize(value, kind), kind)
