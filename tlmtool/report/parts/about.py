"""The part of a report of info: what a folder, a file or a named model is, read off its headers."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, figure, human
from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True, kw_only=True)
class Held:
    """The sites of one role, or of one name where no report tells roles, that are not dense."""

    role: str = entry("the role, or the name of the sites without the number of their layer")
    sites: int = entry("number of sites")
    how: str = entry("the decomposition or the attention kernel, in words")
    parameters: int | None = entry("parameters of the factors", "parameters", optional=True)
    keep: float | None = entry("share of the weights' parameters that is kept", optional=True)


@dataclass(frozen=True, kw_only=True)
class About(Part):
    """What a model is. No weight is read, and nothing is changed."""

    verbs: ClassVar = {"info": ""}

    what: str = entry("what it is, in words")
    path: str | None = entry("the folder or file that was looked at", optional=True)
    parameters: int | None = entry("numbers in the files of weights", "parameters", optional=True)
    file_bytes: int | None = entry("size of the files of weights", "bytes", optional=True)
    bits_per_weight: float | None = entry("bits of those for each parameter", "bits", optional=True)
    dtypes: dict[str, int] | None = entry(
        "numbers of each type in the files", "parameters", optional=True
    )
    layers: int | None = entry("number of layers by the config", optional=True)
    width: int | None = entry("width of the model by the config", optional=True)
    vocabulary: int | None = entry("number of tokens by the config", optional=True)
    tokenizer: bool = entry("whether a tokenizer lies beside the weights")
    chat: bool = entry("whether there is a chat template")
    held: tuple[Held, ...] = entry("the sites that are not dense, by role")
    made: dict[str, str] = entry("where it comes from, by topic")
    figures: dict[str, float] = entry("main figures of its own report, by their path there")
    opens: dict[str, str] = entry("what can open it, and how")

    def views(self, report: Document, full: bool) -> list[View]:
        kept = "" if self.bits_per_weight is None else f"{self.bits_per_weight:.2f} bits a weight"
        kinds = ", ".join(f"{name} {human(n)}" for name, n in (self.dtypes or {}).items())
        shape = {"layers": self.layers, "width": self.width, "tokens": self.vocabulary}
        told = {
            "what": self.what,
            "parameters": human(self.parameters),
            "on disk": ", ".join(filter(None, [human(self.file_bytes, "B"), kept])),
            "stored as": kinds,
            "shape": ", ".join(f"{name} {n:,}" for name, n in shape.items() if n is not None),
            "tokenizer": _tokenizer(self.tokenizer, self.chat),
            "lies in": self.path or "",
        }
        roles = [
            [e.role, str(e.sites), e.how, human(e.parameters), figure(e.keep)] for e in self.held
        ]
        header = ["role", "sites", "decomposition", "parameters", "keep"]
        return [
            View("model", ["", "text"], [[name, text] for name, text in told.items() if text]),
            View("layers that are not dense", header, roles),
            View("where it comes from", ["", "text"], [list(each) for each in self.made.items()]),
            View("its own report", ["", "text"], _figures(self.figures)),
            View("opens in", ["", "text"], [list(each) for each in self.opens.items()]),
        ]


def _tokenizer(there: bool, chat: bool) -> str:
    return ("yes, with a chat template" if chat else "yes") if there else "none"


def _figures(found: dict[str, float]) -> list[list[str]]:
    return [[path, human(n) if abs(n) >= 1e4 else f"{n:.4g}"] for path, n in found.items()]
