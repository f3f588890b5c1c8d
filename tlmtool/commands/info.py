"""What a folder, a file or a named model is: `tlm info`, without torch and without weights."""

from collections import Counter
from pathlib import Path
from typing import Any

from tlmtool.commands.describing import held_in, made_from, opening, read_json, what_of
from tlmtool.models.finding import located
from tlmtool.models.peeking import Tensor, gguf_header, safetensors_header
from tlmtool.models.pickles import is_pickle
from tlmtool.report.layout import leaves
from tlmtool.report.parts.about import About
from tlmtool.report.parts.model import Model
from tlmtool.report.report import Report

BESIDE = ("_scale", "_shape", "_zero_point", "_g_idx")  # ends of names beside packed weights
FIGURES = (  # the figures of a report that are shown, by the beginning of their path
    *("parameters.before", "parameters.after", "parameters.keep", "parameters.growth"),
    *("flops.before", "flops.after", "file_bytes.before", "file_bytes.after"),
    *("quality.before", "quality.after", "quality.perplexity.before", "quality.perplexity.after"),
    *("score.before", "score.after", "recovery.recovered", "training.last_loss"),
    *("parity.relative", "evaluations."),
)
SHAPE = {  # {field: keys of config.json that say it, of which the first that is there counts}
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"),
    "width": ("hidden_size", "d_model", "n_embd", "dim"),
    "vocabulary": ("vocab_size",),
}


def info(name: str) -> Report:
    """The report on a model by its name. Raises NotLoadable where there is none."""
    files = located(name)
    return _folder(name, files[0]) if files[0].is_dir() else _gguf(name, files)


def _folder(name: str, folder: Path) -> Report:
    config, kept = read_json(folder / "config.json"), read_json(folder / "report.json")
    tensors, size = _weights(folder)
    kinds, numbers = _counted(tensors)
    inner = config.get("text_config")
    config = {**(inner if isinstance(inner, dict) else {}), **config}
    shape = {
        field: next((config[key] for key in keys if isinstance(config.get(key), int)), None)
        for field, keys in SHAPE.items()
    }
    template = "chat_template" in read_json(folder / "tokenizer_config.json")
    classes = config.get("architectures") or [None]
    source = kept.get("model") if isinstance(kept.get("model"), dict) else {}
    about = About(
        what=what_of(folder, config),
        path=str(folder),
        parameters=numbers or None,
        file_bytes=size or None,
        bits_per_weight=8 * size / numbers if numbers else None,
        dtypes=kinds or None,
        **shape,
        tokenizer=any((folder / each).exists() for each in ("tokenizer.json", "vocab.txt"))
        or any(folder.glob("*.model")),
        chat=template or (folder / "chat_template.jinja").exists(),
        held=held_in(config, kept, tensors),
        made=made_from(folder, kept),
        figures=_figures(kept),
        opens=opening(folder, config, bool(tensors)),
    )
    model = Model(
        id=name,
        type=config.get("model_type"),
        class_=classes[0] if isinstance(classes[0], str) else None,
        base_model=_text(source.get("base_model")),
        sha256=source.get("sha256"),
    )
    return Report("info", [model, about])


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _weights(folder: Path) -> tuple[dict[str, Tensor], int]:
    """(the tensors of the files of weights, the bytes of these). A pickle is not opened."""
    files = sorted(folder.glob("*.safetensors"))
    tensors = {name: each for file in files for name, each in safetensors_header(file).items()}
    pickles = [file for file in folder.iterdir() if is_pickle(file.name)]
    return tensors, sum(file.stat().st_size for file in files or pickles)


def _counted(tensors: dict[str, Tensor]) -> tuple[dict[str, int], int]:
    """({type: numbers of it}, how many weights there are). What says how to unpack others is no
    weight."""
    kinds, total = Counter[str](), 0
    for name, each in tensors.items():
        kinds[each.dtype] += each.numbers
        if not name.endswith(BESIDE):
            total += each.numbers if each.packed is None else each.packed
    return dict(kinds.most_common()), total


def _figures(kept: dict[str, Any]) -> dict[str, float]:
    """The main figures of a report."""
    return {
        path: float(value)
        for path, value in leaves(kept)
        if path.startswith(FIGURES)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    }


def _gguf(name: str, files: list[Path]) -> Report:
    """The report on a GGUF file, which may lie in several parts."""
    found, tensors = gguf_header(files[0])
    kind = str(found.get("general.architecture"))
    kinds, numbers = _counted(tensors)
    size = sum(file.stat().st_size for file in files)
    shape = {"layers": "block_count", "width": "embedding_length", "vocabulary": "vocab_size"}
    sides = {field: found.get(f"{kind}.{key}") for field, key in shape.items()}
    topics = {"name": "name", "license": "license", "from": "base_model.0.repo_url"}
    said = {topic: found.get(f"general.{key}") for topic, key in topics.items()}
    about = About(
        what=f"a GGUF file of a {kind} model" + (f", in {len(files)} parts" if files[1:] else ""),
        path=str(files[0]),
        parameters=numbers,
        file_bytes=size,
        bits_per_weight=8 * size / numbers if numbers else None,
        dtypes=kinds,
        **{field: side for field, side in sides.items() if isinstance(side, int)},
        tokenizer=any(key.startswith("tokenizer.ggml.") for key in found),
        chat="tokenizer.chat_template" in found,
        held=(),
        made={topic: text for topic, text in said.items() if isinstance(text, str)},
        figures={},
        opens={
            "llama.cpp": "yes",
            "tlm": "yes, unpacked into floats at first use (the gguf extra)",
            "transformers": "with gguf_file=, unpacked into floats",
        },
    )
    return Report("info", [Model(id=name), about])
