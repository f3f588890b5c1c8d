"""Pico models, one for every row of the table of families, and a tokenizer of one token a word."""

import gc
import logging
import os
import sys
import types

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerFast

from tlmtool.report.report import Report

torch.set_num_threads(1)  # the tests themselves run side by side
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEVICE = os.environ.get("TLM_TEST_DEVICE", "cuda")  # of the tests marked gpu; cpu checks the tests

V, E, FFN, WIDTH = 99, 32, 48, 8
_ENDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_BERT = {
    "vocab_size": V,
    "hidden_size": E,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": FFN,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
}
_LLAMA = {**_BERT, **_ENDS, "num_key_value_heads": 2, "head_dim": WIDTH}
_BART = {
    "vocab_size": V,
    "d_model": E,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
    **{f"{side}_attention_heads": 4 for side in ("encoder", "decoder")},
    **{f"{side}_ffn_dim": FFN for side in ("encoder", "decoder")},
    **_ENDS,
}
_T5 = {
    "vocab_size": V,
    "d_model": E,
    "d_kv": WIDTH,
    "d_ff": FFN,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "eos_token_id": 2,
}
CONFIGS = {
    "bert": _BERT,
    "roberta": {**_BERT, **_ENDS},
    "distilbert": {
        "vocab_size": V,
        "dim": E,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": FFN,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    },
    "electra": {**_BERT, "embedding_size": 16},
    "gpt2": {
        "vocab_size": V,
        "n_embd": E,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "n_inner": FFN,
        **_ENDS,
    },
    "opt": {
        "vocab_size": V,
        "hidden_size": E,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": FFN,
        "max_position_embeddings": 64,
        "word_embed_proj_dim": E,
        **_ENDS,
    },
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "t5": _T5,
    "t5-gated": {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "bart": _BART,
    "marian": _BART,
}
MASKED = ("bert", "roberta", "distilbert", "electra")
SEQ2SEQ = ("t5", "t5-gated", "bart", "marian")
CAUSAL = tuple(f for f in CONFIGS if f not in MASKED + SEQ2SEQ)
HEADS = ("base", "lm", "classification")
CASES = [(f, h) for f in CONFIGS for h in HEADS if (f, h) != ("marian", "classification")]


def auto(family: str, head: str) -> type:
    """The Auto class of a head."""
    lm = "MaskedLM" if family in MASKED else "CausalLM" if family in CAUSAL else "Seq2SeqLM"
    name = {"base": "", "lm": f"For{lm}", "classification": "ForSequenceClassification"}[head]
    return getattr(transformers, f"AutoModel{name}")


def pico(family: str, head: str = "base", seed: int = 0, **more) -> PreTrainedModel:
    """A model of 2 layers of width 32, random to its last bias, in evaluation mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family.removesuffix("-gated"), **{**CONFIGS[family], **more})
    model = auto(family, head).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.requires_grad:
                continue  # sinusoids, which no checkpoint holds
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(model: PreTrainedModel, seed: int = 1) -> dict[str, torch.Tensor]:
    """Two texts of nine tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, V, (2, 9), generator=generator)
    ids[:, -1] = 2  # the end that classifiers of bart and t5 look for
    mask = torch.ones_like(ids)
    if model.config.is_encoder_decoder and "Classification" not in type(model).__name__:
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids.flip(1)}
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def output(model: PreTrainedModel) -> torch.Tensor:
    """The first output on `inputs`: hidden states or logits."""
    return model(**inputs(model))[0]


def apart(x: torch.Tensor, y: torch.Tensor) -> float:
    """The largest difference, relative to the largest of y."""
    x, y = (t.detach().cpu() for t in (x, y))
    return float((x - y).abs().max() / y.abs().max().clamp(min=1e-30))


WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "far", "away"]


def sentences(count: int) -> list[str]:
    """Texts of 2 to 11 words, each word once."""
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(WORDS), generator=draw).tolist() for _ in range(count)]
    return [" ".join(WORDS[i] for i in each[: 2 + k % 10]) for k, each in enumerate(orders)]


def word_tokenizer(pad: bool = True, special: bool = True) -> PreTrainedTokenizerFast:
    """One token a word; with [CLS] ... [SEP] round a text if `special`."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    kinds = {"unk_token": "[UNK]", "mask_token": "[MASK]", "eos_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **kinds, **({"pad_token": "[PAD]"} if pad else {})
    )


def of_two(monkeypatch) -> None:
    """As the first of two processes that torchrun has started."""
    more = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in ({"RANK": "0", "LOCAL_RANK": "0"} | more).items():
        monkeypatch.setenv(name, value)


def pytest_collection_modifyitems(items) -> None:
    """Tests marked gpu are skipped where torch finds none."""
    if DEVICE.startswith("cuda") and not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="torch finds no GPU here"))


@pytest.fixture(autouse=True, scope="session")
def quiet():
    """No progress bars of transformers between the dots."""
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Nothing imported is garbage: every command collects twice, and would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def commands(monkeypatch):
    """Stands in for commands.performing; `answer` may be set to an exception or a function."""
    module = types.ModuleType("tlmtool.commands.performing")
    module.recipes = []
    module.answer = lambda recipe: Report(recipe.verb, {"quality": {"name": "loss", "after": 3.31}})

    def command(recipe):
        module.recipes.append(recipe)
        print("noise of a library")
        logging.getLogger("tlmtool").info("half way")
        if isinstance(module.answer, BaseException):
            raise module.answer
        return module.answer(recipe)

    module.perform = command
    monkeypatch.setitem(sys.modules, "tlmtool.commands.performing", module)
    return module
