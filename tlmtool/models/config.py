"""The config.json of a checkpoint, read and checked for what tlm can work on."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text
from tlmtool.models.architectures import PREFIX, base_type
from tlmtool.models.guarding import CONFIG, modules
from tlmtool.models.quantized import by_config, reads, refusal

# The most that a key with this word may say. transformers makes a Python object of each layer and
# label, so a larger number would take minutes and gigabytes before anything is compared.
MOST = {"layer": 1024, "label": 100_000}
ORDER = 64  # the most cores of an MPO in a plan; each core is a tensor
ELSEWHERE = {  # keys with which transformers loads other weights than the files that tlm looks at
    "transformers_weights": "names other weights: call them model.safetensors, drop the key",
    "fusion_config": "asks for fused modules: drop the key",
}
TEXT = (  # a type in one of these lists of transformers reads text; others are refused
    "CAUSAL_LM",
    "MASKED_LM",
    "QUESTION_ANSWERING",
    "SEQUENCE_CLASSIFICATION",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "TEXT_ENCODING",
    "TOKEN_CLASSIFICATION",
)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict. Raises NotLoadable where there is none, where it is broken, and where
    it describes what tlm does not support."""
    file = folder / "config.json"
    kept = _read(file, folder)
    model_type: Any = kept.get("model_type")
    if why := _no_text_model(model_type):
        raise NotLoadable(f"{folder} has model type {model_type!r}, {why}")
    check_counts(kept, str(file))
    if (how := by_config(kept)) and not reads(kept):
        raise refusal(folder, how)
    if key := next((key for key in ELSEWHERE if kept.get(key)), None):
        raise NotLoadable(f"{folder} {ELSEWHERE[key]} ({key} in config.json)")
    if str(model_type).startswith(PREFIX) and not isinstance(kept.get("tlm"), dict):
        raise NotLoadable(f"{file} has model type {model_type} but no plan under the key tlm")
    return kept


def config_in(path: Path, **changes: Any) -> PreTrainedConfig:
    """The config of a folder as transformers reads it, with keys changed.

    The key `auto_map` is left out: no code of a folder is run, and none travels to a new folder.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, **changes)
    vars(config).pop("auto_map", None)
    return config


def reads_text(kind: str) -> bool:
    """Whether a model type of transformers reads text."""
    lists = (getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES") for name in TEXT)
    return any(kind in each for each in lists) or kind.endswith(("_text", "_text_model"))


def _no_text_model(model_type: Any) -> str | None:
    """Why a model type is none that tlm can work on; None where it can."""
    kind = base_type(model_type) if isinstance(model_type, str) else ""
    if kind not in CONFIG_MAPPING_NAMES:
        return f"which transformers {transformers.__version__} does not have"
    return None if reads_text(kind) else "which reads no text: tlm works on text models"


def _read(file: Path, folder: Path) -> dict[str, Any]:
    try:
        kept = json.loads(read_text(file, CONFIG))
    except FileNotFoundError:
        parts = (path for path in modules(folder) if (folder / path / "config.json").is_file())
        part = next(parts, None)
        where = f": its model lies in {folder / part}, give that" if part else ""
        raise NotLoadable(
            f"{folder} has no config.json, so it is no model checkpoint{where}"
        ) from None
    except NotLoadable:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise NotLoadable(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(kept, dict):
        raise NotLoadable(f"{file} holds {type(kept).__name__}, not an object")
    return kept


def check_counts(config: Mapping[str, Any], where: str) -> None:
    """Raises NotLoadable for more layers, labels or cores than a model can have, at any depth of a
    config."""
    for key, value in values_of(config):
        most = ORDER if key == "order" else next((MOST[x] for x in MOST if x in key), None)
        if most is not None and isinstance(value, int | float) and value > most:
            raise NotLoadable(f"{where} says {key} is {value}: at most {most} is possible")


def values_of(config: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything in a config that is no dict or list, at any depth."""
    waiting = [("", config)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(inner), each) for inner, each in value.items()]
        elif isinstance(value, list):
            waiting += [(key, each) for each in value]
        else:
            yield key, value
