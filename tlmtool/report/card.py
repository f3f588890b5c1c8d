"""The model card (README.md) of a checkpoint that a command has written."""

from importlib import import_module
from typing import Any

from tlmtool.files.notation import written
from tlmtool.report.figures import TEXT_COLUMNS, View, human
from tlmtool.report.index import model_index
from tlmtool.report.layout import Document
from tlmtool.report.parts.attention import Attention
from tlmtool.report.parts.costs import Parameters
from tlmtool.report.parts.ending import Ending, Files
from tlmtool.report.parts.exported import Exported
from tlmtool.report.parts.model import Model
from tlmtool.report.parts.quantization import Quantization
from tlmtool.report.parts.sites import Sites
from tlmtool.report.parts.training import Training
from tlmtool.report.printable import printable
from tlmtool.report.views import alarms, facts, views, warnings

PICTURE = "report.png"  # of a checkpoint, beside its card
NARROW = "narrow"  # the decomposition that leaves out neurons
HEADS = {  # end of a class name: (the Auto class that loads it, the task as the Hub calls it)
    "ForMaskedLM": ("AutoModelForMaskedLM", "fill-mask"),
    "ForCausalLM": ("AutoModelForCausalLM", "text-generation"),
    "LMHeadModel": ("AutoModelForCausalLM", "text-generation"),
    "ForConditionalGeneration": ("AutoModelForSeq2SeqLM", "text2text-generation"),
    "MTModel": ("AutoModelForSeq2SeqLM", "translation"),
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification"),
    "ForTokenClassification": ("AutoModelForTokenClassification", "token-classification"),
    "ForQuestionAnswering": ("AutoModelForQuestionAnswering", "question-answering"),
}
BARE = ("AutoModel", "feature-extraction")  # of any other class
CODE = "modeling_tlm.py"  # a file of every folder that needs tlm to load
SENTENCES = "sentence-transformers"  # the library of a folder with modules.json


def card(report: Document, model_id: str) -> str:
    """Front matter and Markdown of a report."""
    ending, methods = report.part(Ending), _methods(report)
    front = {key: value for key, value in _front(report, model_id).items() if value}
    parts = [f"---\n{written(front)}---\n", f"# {model_id}\n", _introduction(report)]
    files = report.part(Files)
    if files and PICTURE in files.files:
        parts.append(f"![what it keeps and what it loses]({PICTURE})\n")
    if loud := [f"> **WARNING: {each}.**" for each in alarms(report)]:
        parts.append("\n>\n".join(loud) + "\n")
    exported = report.part(Exported)
    how = f"```python\n{exported.example.strip()}\n```\n" if exported else ""
    parts.append(how or _loading(report, model_id))
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


def _front(report: Document, model_id: str) -> dict[str, Any]:
    """What the Hub reads of a card. Values may be empty."""
    model, sentences = report.part(Model) or Model(), _holds(report, "modules.json")
    exported = report.part(Exported)
    library = SENTENCES if sentences else "transformers"
    attention, bits = report.part(Attention), report.part(Quantization)
    kernels = {str(each.attention["name"]) for each in (attention.layers if attention else ())}
    tags = [*_methods(report), *sorted(kernels), *([f"{bits.bits}-bit"] if bits else [])]
    return {
        "base_model": None if model.new else model.hub_id,
        "library_name": exported.library if exported else library,
        "pipeline_tag": "sentence-similarity" if sentences else _head(model)[1],
        "license": model.license,
        "tags": [*([SENTENCES] if sentences else []), "tlm", *tags],
        "model-index": model_index(report, model_id),
    }


def _head(model: Model) -> tuple[str, str]:
    """(the Auto class that loads a model, its task as the Hub calls it)."""
    kind = model.class_ or ""
    return next((each for end, each in HEADS.items() if kind.endswith(end)), BARE)


def _holds(report: Document, file: str) -> bool:
    """Whether the folder of a report has a file."""
    files = report.part(Files)
    return files is not None and file in files.files


def _plain(report: Document) -> bool:
    """Whether a checkpoint loads without tlm."""
    if bits := report.part(Quantization):
        return bits.plain
    if report.verb in ("merge", "finetune") and report.part(Files):
        return not _holds(report, CODE)
    ending = report.part(Ending)
    asked = ending.recipe if ending else {}
    return report.verb == "merge" or bool(asked.get("compression", {}).get("plain"))


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


def _loading(report: Document, model_id: str) -> str:
    """Code that loads the model, with what it needs to be installed."""
    plain, packed = _plain(report), report.part(Quantization) is not None
    needs = "compressed-tensors" if packed else ""
    needs = needs if plain else "'tlmtool[bits]'" if packed else "tlmtool"
    if _holds(report, "modules.json"):
        trust = "" if plain else ", trust_remote_code=True"
        lines = [
            f"# pip install {f'{SENTENCES} {needs}'.rstrip()}",
            "from sentence_transformers import SentenceTransformer\n",
            f'model = SentenceTransformer("{model_id}"{trust})',
            'embeddings = model.encode(["A cat sat on the mat.", "Dogs ran far away."])',
        ]
    else:
        auto = _head(report.part(Model) or Model())[0]
        lines = [
            *([f"# pip install {needs}"] if needs else []),
            *([] if plain else ["import tlmtool  # makes transformers know the type"]),
            f"from transformers import {auto}, AutoTokenizer\n",
            f'model = {auto}.from_pretrained("{model_id}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{model_id}")',
        ]
    return "\n".join(["```python", *lines, "```\n"])
