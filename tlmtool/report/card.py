"""The model card (README.md) of a checkpoint that a command has written."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tlmtool.files.notation import written
from tlmtool.report.figures import TEXT_COLUMNS, View, human
from tlmtool.report.printable import printable
from tlmtool.report.views import views

AUTO_CLASSES = {  # end of a class name: the Auto class that loads it
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "MTModel": "AutoModelForSeq2SeqLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}


def card(
    data: Mapping[str, Any], model_id: str, methods: list[str], facts: list[tuple[str, str]]
) -> str:
    """Front matter and Markdown for a report's data, the names of its methods and its facts."""
    model, recipe = data.get("model") or {}, data.get("recipe")
    base = None if model.get("new") else model.get("base_model") or model.get("id")
    kind = str(model.get("class") or "")
    front = {
        "base_model": base,
        "library_name": "transformers",
        "license": model.get("license"),
        "tags": ["tlm", *methods],
    }
    front = {key: value for key, value in front.items() if value}
    parts = [f"---\n{written(front)}---\n", f"# {model_id}\n"]
    parts += [_introduction(data, methods), _loading(model_id, kind, data["verb"] == "merge")]
    for view in views(data):
        parts.append(f"## {view.title.capitalize()}\n\n{_markdown(view)}")
    made = [f"* {label}: {text}" for label, text in facts]
    made += [f"* warning: {each}" for each in data.get("warnings") or []]
    if made:
        parts.append("## How it was made\n\n" + "\n".join(made) + "\n")
    if cited := [f"* {name}: {text}" for name, text in _references(methods).items()]:
        parts.append("## References\n\n" + "\n".join(cited) + "\n")
    if recipe:
        text = recipe if isinstance(recipe, str) else written(recipe)
        parts.append(f"## Recipe\n\n```yaml\n{text.strip()}\n```\n")
    return printable("\n".join(parts))


def _introduction(data: Mapping[str, Any], methods: list[str]) -> str:
    model, parameters = data.get("model") or {}, data.get("parameters") or {}
    name = f"`{model.get('base_model') or model.get('id', 'a model')}`"
    name = str(model["id"]).capitalize() if model.get("new") else name
    before, after = human(parameters.get("before")), human(parameters.get("after"))
    instead = "" if before == after else f" instead of {before}"
    sizes = f" {after} parameters{instead}." if before and after else ""
    if data["verb"] == "merge":
        return f"{name} with its factors multiplied out, a plain checkpoint again.{sizes}\n"
    done = []
    if sites := len(data.get("sites") or []):
        done.append(f"with {sites} of its linear layers held as factors ({', '.join(methods)})")
    if layers := (data.get("attention") or {}).get("layers"):
        kinds = sorted({each["attention"]["name"] for each in layers})
        done.append(f"with {' and '.join(kinds)} attention in {len(layers)} layers")
    if task := (data.get("training") or {}).get("task"):
        done.append(f"trained by {task}" if task == "distillation" else f"trained on task {task}")
    return f"{name} {', '.join(done)}, made by `tlm {data['verb']}`.{sizes}\n"


def _references(names: list[str]) -> dict[str, str]:
    """{name: paper} of decompositions, read off their classes."""
    found = {}
    for name in names:
        try:
            module = import_module(f"tlmtool.decompositions.{name}")
        except ImportError:
            continue
        for each in vars(module).values():
            own = isinstance(each, type) and each.__module__ == module.__name__
            if own and (text := getattr(each, "reference", "")):
                found[name] = str(text)
    return found


def _markdown(view: View) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"

    rule = ["---", *("---" if n in TEXT_COLUMNS else "---:" for n in view.header[1:])]
    lines = [line(view.header), line(rule), *map(line, view.rows)]
    return (
        "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in view.note.split("\n") if note)
    )


def _loading(model_id: str, kind: str, plain: bool) -> str:
    auto = next((a for end, a in AUTO_CLASSES.items() if kind.endswith(end)), "AutoModel")
    register = "" if plain else "import tlmtool  # makes transformers know the type\n"
    return (
        f"```python\n{register}from transformers import {auto}, AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("{model_id}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{model_id}")\n```\n'
    )
