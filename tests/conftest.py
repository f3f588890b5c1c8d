"""Pico models, one for each row of the table of families, and a tokenizer of one token a word."""

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
from transformers.models.auto import modeling_auto

from tlmtool.models.architectures import ARCHITECTURES
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.quality import Quality
from tlmtool.report.report import Report

torch.set_num_threads(1)  # the tests themselves run side by side
os.environ.setdefault("OMP_NUM_THREADS", "1")

DEVICE = os.environ.get("TLM_TEST_DEVICE", "cuda")  # of the tests marked gpu; cpu checks the tests

V, E, FFN, WIDTH = 99, 32, 48, 8
# What configs call their sizes. A family whose config has other names needs them added here.
SIZES = {
    "vocab_size": V,
    "embedding_size": 16,
    "num_key_value_heads": 2,
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "word_embed_proj_dim"), E),
    **dict.fromkeys(("intermediate_size", "d_ff", "hidden_dim", "ffn_dim", "n_inner"), FFN),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), FFN),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("head_dim", "d_kv"), WIDTH),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
}
TOKENS = {"pad_token_id": 1, "decoder_start_token_id": 2, "forced_eos_token_id": None}
ENDS = {"bos_token_id": 0, "eos_token_id": 2}  # of a family that generates, or has them
MORE = {  # a family, or a second kind of one as `family-kind`: {key of its config: value}
    "t5": {"pad_token_id": 0, "decoder_start_token_id": 0},
    "t5-gated": {
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
}


def type_of(family: str) -> str:
    """The model type of a family or of a second kind of one."""
    return family if family in ARCHITECTURES else family.rpartition("-")[0]


def models_of(head: str) -> dict:
    """{model type: class} of the types that transformers has with a head."""
    return getattr(modeling_auto, f"MODEL_FOR_{head}_MAPPING_NAMES")


def small(family: str) -> dict:
    """Keys of the config of a pico model."""
    plain = AutoConfig.for_model(type_of(family)).to_dict()
    found = {key: value for key, value in (SIZES | TOKENS).items() if key in plain}
    reads = type_of(family) in models_of("MASKED_LM") and not plain["is_encoder_decoder"]
    found |= {key: value for key, value in ENDS.items() if plain.get(key) is not None or not reads}
    return found | MORE.get(family, {})


CONFIGS = {family: small(family) for family in {**ARCHITECTURES, **MORE}}
SEQ2SEQ = tuple(f for f in CONFIGS if type_of(f) in models_of("SEQ_TO_SEQ_CAUSAL_LM"))
MASKED = tuple(f for f in CONFIGS if f not in SEQ2SEQ and type_of(f) in models_of("MASKED_LM"))
CAUSAL = tuple(f for f in CONFIGS if f not in MASKED + SEQ2SEQ)
HEADS = ("base", "lm", "classification")
CASES = [
    (family, head)
    for family in CONFIGS
    for head in HEADS
    if head != "classification" or type_of(family) in models_of("SEQUENCE_CLASSIFICATION")
]


def auto(family: str, head: str) -> type:
    """The Auto class of a head."""
    lm = "MaskedLM" if family in MASKED else "CausalLM" if family in CAUSAL else "Seq2SeqLM"
    name = {"base": "", "lm": f"For{lm}", "classification": "ForSequenceClassification"}[head]
    return getattr(transformers, f"AutoModel{name}")


def pico(family: str, head: str = "base", seed: int = 0, **more) -> PreTrainedModel:
    """A model of 2 layers of width 32, random to its last bias, in evaluation mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(type_of(family), **{**CONFIGS[family], **more})
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n` the tests of a file stay together, so what the file sets up is made once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(autouse=True, scope="module")
def frozen():
    """Nothing imported is garbage: every command collects twice, and would look at all of it."""
    gc.collect()
    gc.freeze()


def ending(**more) -> Ending:
    """The end of a report that is made up."""
    common = {"warnings": (), "seconds": {}, "seed": 0, "versions": {}, "recipe": {}}
    return Ending(**common | more)


@pytest.fixture
def commands(monkeypatch):
    """Stands in for commands.performing; `answer` may be set to an exception or a function."""
    module = types.ModuleType("tlmtool.commands.performing")
    module.recipes = []
    quality = Quality(name="loss", what="loss", before=3.0, after=3.31, texts=9)
    module.answer = lambda recipe: Report(recipe.verb, [quality])

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
