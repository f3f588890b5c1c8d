"""The model card (README.md) of a LoRA adapter."""

from tlmtool.files.notation import written
from tlmtool.report.card import section
from tlmtool.report.layout import Document
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.model import Model
from tlmtool.report.printable import printable
from tlmtool.report.views import facts, views, warnings

PAPER = "Liu et al. 2024, EoRA: arXiv 2410.21271"


def adapter_card(report: Document, adapter_id: str) -> str:
    """Front matter and Markdown of the report of a repair."""
    model, ending = report.part(Model) or Model(), report.part(Ending)
    asked = ending.recipe if ending else {}
    against = asked.get("repair", {}).get("against", "")
    front = {
        "base_model": model.id,
        "library_name": "peft",
        "license": model.license,
        "tags": ["lora", "tlm"],
    }
    front = {key: value for key, value in front.items() if value}
    kind = model.class_ or "AutoModel"
    own = "import tlmtool  # makes transformers know the type\n" if _ours(model) else ""
    parts = [
        f"---\n{written(front)}---\n",
        f"# {adapter_id}\n",
        f"A LoRA adapter for `{model.id}`, made by `tlm repair`. It brings that model nearer to "
        f"`{against}`, without training.\n",
        f"```python\n{own}from peft import PeftModel\nfrom transformers import {kind}\n\n"
        f'model = {kind}.from_pretrained("{model.id}")\n'
        f'model = PeftModel.from_pretrained(model, "{adapter_id}")\n```\n',
        *map(section, views(report)),
    ]
    made = [f"* {label}: {text}" for label, text in facts(report)]
    made += [f"* warning: {each}" for each in warnings(report)]
    parts.append("## How it was made\n\n" + "\n".join([*made, f"* method: {PAPER}"]) + "\n")
    parts.append(f"## Recipe\n\n```yaml\n{written(asked).strip()}\n```\n")
    return printable("\n".join(parts))


def _ours(model: Model) -> bool:
    return str(model.type).startswith("tlm-")
