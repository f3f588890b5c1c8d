"""The part `model` of a report: which model it is about, and where the result lies."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tlmtool.report.figures import View
from tlmtool.report.layout import Document, Part, entry

EVERY = dict.fromkeys(
    (
        *("compress", "quantize", "repair", "merge", "overparam", "export", "finetune"),
        *("profile", "evaluate", "generate"),
    ),
    "",
)


@dataclass(frozen=True, kw_only=True)
class Model(Part):
    """The model that was read, and where the result lies. Shown as the title of a report."""

    key: ClassVar[str] = "model"
    verbs: ClassVar = EVERY | {"info": ""}

    id: str | None = entry("the model as it was named in the command", optional=True)
    sha256: dict[str, str] | None = entry(
        "checksum of each file of weights that was read", optional=True
    )
    gguf: dict[str, Any] | None = entry(
        "the GGUF file that the weights were unpacked from: its name, bytes and sum, its "
        "quantization, and the number of tensors of each type",
        optional=True,
    )
    base_model: str | None = entry("the model that it was made from", optional=True)
    hub_id: str | None = entry(
        "the id of `base_model` on the Hugging Face Hub, where it is known", optional=True
    )
    license: str | tuple[str, ...] | None = entry(
        "the license that its model card names, or a list of several", optional=True
    )
    new: bool | None = entry("whether its weights were drawn at random", optional=True)
    type: str | None = entry("`model_type` of its config.json", optional=True)
    class_: str | None = entry("the class that it was loaded with", optional=True)
    out: str | None = entry("the folder or file that was written", optional=True)

    def views(self, report: Document, full: bool) -> list[View]:
        return []
