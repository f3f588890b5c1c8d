"""The tokenizer of a GGUF file, which llama.cpp runs by itself."""

import json
from typing import Any

from tlmtool.failure import Usage
from tlmtool.models.architectures import BYTE_LEVEL, SPLITS

NORMAL, CONTROL, OWN, UNUSED = 1, 3, 4, 5  # kinds of tokens, as llama.cpp counts them
IDS = ("bos", "eos", "unk", "pad")  # tokens with a meaning, as tokenizers name them


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """Raises Usage for a tokenizer that this does not write; `name`: of the model."""
    if tokenizer is None:
        raise Usage(f"{name} has no tokenizer, which a GGUF file holds: add its tokenizer.json")
    _splitting(_parts(tokenizer, name), name)


def add_tokenizer(writer: Any, tokenizer: Any, size: int, name: str) -> None:
    """Write a byte-level BPE tokenizer for a table of `size` tokens."""
    parts = _parts(tokenizer, name)
    added = {each["id"]: each for each in parts["added_tokens"]}
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = [known.get(index, f"[UNUSED{index}]") for index in range(size)]
    kinds = [_kind(added.get(index), index in known) for index in range(size)]
    merges = parts["model"]["merges"]
    writer.add_tokenizer_model(BYTE_LEVEL)
    writer.add_tokenizer_pre(_splitting(parts, name))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    for each in IDS:
        if (index := getattr(tokenizer, f"{each}_token_id")) is not None:
            getattr(writer, f"add_{each}_token_id")(index)
    begun = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    writer.add_add_bos_token(begun)
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _kind(added: dict[str, Any] | None, known: bool) -> int:
    if added is None:
        return NORMAL if known else UNUSED
    return CONTROL if added["special"] else OWN


def _parts(tokenizer: Any, name: str) -> dict[str, Any]:
    """The tokenizer.json of a byte-level BPE tokenizer; raises Usage for another one."""
    if not getattr(tokenizer, "is_fast", False):
        raise Usage(f"the tokenizer of {name} has no tokenizer.json, from which GGUF is written")
    parts: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = parts["model"]["type"]
    if kind != "BPE" or parts["model"].get("byte_fallback") or parts["normalizer"]:
        raise Usage(
            f"the tokenizer of {name} is {kind}, and tlm writes byte-level BPE into GGUF: take "
            "convert_hf_to_gguf.py of llama.cpp, which reads the plain checkpoint"
        )
    return parts


def _splitting(parts: dict[str, Any], name: str) -> str:
    """What llama.cpp calls the way in which a tokenizer splits a text into words."""
    split = parts["pre_tokenizer"] or {}
    steps = split["pretokenizers"] if split.get("type") == "Sequence" else [split]
    kinds = [step.get("type") for step in steps]
    if kinds[-1] == "ByteLevel" and not steps[-1].get("add_prefix_space"):
        if kinds == ["ByteLevel"] and steps[0]["use_regex"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and (known := _named(steps[0]["pattern"])):
            return known
    raise Usage(
        f"llama.cpp knows how to split text by name, and tlm knows no name for the way of {name}: "
        "take convert_hf_to_gguf.py of llama.cpp, which reads the plain checkpoint"
    )


def _named(pattern: dict[str, str]) -> str | None:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    known = GGUF_PRE_TOKENIZER_SPLITS
    return next((n for n in SPLITS if known.get(n) == pattern.get("Regex", "")), None)
