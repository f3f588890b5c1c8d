"""The model card (README.md) of a checkpoint that a command has written."""

from importlib import import_module
from typing import Any

from tlmtool.files.notation import written
from tlmtool.report.figures import TEXT_COLUMNS, View, human
from tlmtool.report.index import model_index
from tlmtool.report.layout import Document
from tlmtool.report.parts.attention import Attention
from tlmtool.report.parts.costs import Parameters
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.exported import Exported
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.quantization import Quantization
from tlmtool.report.parts.sites import Sites
from tlmtool.report.parts.training import Training
from tlmtool.report.printable import printable
from tlmtool.report.views import alarms, facts, views, warnings

NARROW = "narrow"  # the decomposition that leaves out neurons
AUTO_CLASSES = {  # end of a class name: the Auto class that loads it
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "MTModel": "AutoModelForSeq2SeqLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}


def card(report: Document, model_id: str) -> str:
    """Front matter and Markdown of a report."""
    model, ending, methods = report.part(Model) or Model(), report.part(Ending), _methods(report)
    exported = report.part(Exported)
    base = None if model.new else model.base_model or model.id
    front = {
        "base_model": base,
        "library_name": exported.library if exported else "transformers",
        "license": model.license,
        "tags": ["tlm", *methods],
        "model-index": model_index(report, model_id),
    }
    front = {key: value for key, value in front.items() if value}
    parts = [f"---\n{written(front)}---\n", f"# {model_id}\n", _introduction(report)]
    if loud := [f"> **WARNING: {each}.**" for each in alarms(report)]:
        parts.append("\n>\n".join(loud) + "\n")
    bits, asked = report.part(Quantization), ending.recipe if ending else {}
    plain = bits.plain if bits else _plain(report.verb, asked)
    if exported:
        parts.append(f"```python\n{exported.example.strip()}\n```\n")
    else:
        parts.append(_loading(model_id, model.class_ or "", plain, bits is not None))
    parts += [section(view) for view in views(report)]
    made = [f"* {label}: {text}" for label, text in facts(report)]
    made += [f"* warning: {each}" for each in warnings(report) if each not in alarms(report)]
    if made:
        parts.append("## How it was made\n\n" + "\n".join(made) + "\n")
    if cited := [f"* {name}: {text}" for name, text in _references(methods).items()]:
        parts.append("## References\n\n" + "\n".join(cited) + "\n")
    if ending and ending.recipe:
        parts.append(f"## Recipe\n\n```yaml\n{written(ending.recipe).strip()}\n```\n")
    return printable("\n".join(parts))


def _plain(verb: str, asked: dict[str, Any]) -> bool:
    """Whether a checkpoint that is not quantized loads without tlm."""
    return verb == "merge" or bool(asked.get("compression", {}).get("plain"))


def _introduction(report: Document) -> str:
    """What the model is and how large, in a sentence or two."""
    model, parameters = report.part(Model) or Model(), report.part(Parameters)
    name = f"`{model.base_model or model.id or 'a model'}`"
    name = str(model.id).capitalize() if model.new else name
    sizes = ""
    if parameters:
        before, after = human(parameters.before), human(parameters.after)
        sizes = f" {after} parameters{'' if before == after else f' instead of {before}'}."
    if report.verb == "merge":
        return f"{name} with its factors multiplied out, a plain checkpoint again.{sizes}\n"
    done = []
    if exported := report.part(Exported):
        rounded = f", with its weights in {exported.bits} bits" if exported.bits else ""
        done.append(f"as {exported.to}{rounded}")
    if bits := report.part(Quantization):
        done.append(f"with its weights in {bits.bits} bits")
    if (sites := report.part(Sites)) and sites.sites:
        thin = [each for each in sites.sites if each.decomposition["name"] == NARROW]
        methods = ", ".join(name for name in _methods(report) if name != NARROW)
        if methods:
            held = len(sites.sites) - len(thin)
            done.append(f"with {held} of its linear layers held as factors ({methods})")
        if thin:
            done.append(f"with fewer inner neurons in {len(thin)} linear layers of its MLPs")
    if attention := report.part(Attention):
        kinds = sorted({each.attention["name"] for each in attention.layers})
        done.append(f"with {' and '.join(kinds)} attention in {len(attention.layers)} layers")
    if training := report.part(Training):
        task = training.task
        done.append(f"trained by {task}" if task == "distillation" else f"trained on task {task}")
    return f"{name} {', '.join(done)}, made by `tlm {report.verb}`.{sizes}\n"


def _methods(report: Document) -> list[str]:
    """Names of the decompositions used."""
    sites = report.part(Sites)
    return sorted({str(e.decomposition["name"]) for e in (sites.sites if sites else ())})


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


def section(view: View) -> str:
    """A table of the report as a section of the card."""
    return f"## {view.title.capitalize()}\n\n{_markdown(view)}"


def _markdown(view: View) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.strip().replace("|", "\\|") for cell in cells) + " |"

    rule = ["---", *("---" if n in TEXT_COLUMNS else "---:" for n in view.header[1:])]
    lines = [line(view.header), line(rule), *map(line, view.rows)]
    return (
        "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in view.note.split("\n") if note)
    )


def _loading(model_id: str, kind: str, plain: bool, packed: bool) -> str:
    auto = next((a for end, a in AUTO_CLASSES.items() if kind.endswith(end)), "AutoModel")
    register = "" if plain else "import tlmtool  # makes transformers know the type\n"
    needs = "compressed-tensors" if plain else "'tlmtool[bits]'"
    register = (f"# needs: pip install {needs}\n" if packed else "") + register
    return (
        f"```python\n{register}from transformers import {auto}, AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("{model_id}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{model_id}")\n```\n'
    )
