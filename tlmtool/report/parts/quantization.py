"""The part `quantization` of a report: which weights were rounded, to how many bits."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, human
from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True, kw_only=True)
class Quantization(Part):
    """Weights that were rounded to the nearest level of their group, and are stored in few bits."""

    key: ClassVar[str] = "quantization"
    verbs: ClassVar = {"compress": "written rounds", "quantize": ""}

    bits: int = entry("bits of a weight of a linear layer", "bits")
    embedding_bits: int = entry("bits of embeddings and of their head; 16: left as floats", "bits")
    rounded: int = entry("weights that were rounded", "parameters")
    left: int = entry("other numbers, which are stored as floats", "parameters")
    stored_bytes: int = entry("size of all tensors in the files, counted", "bytes")
    plain: bool = entry("whether transformers loads the checkpoint without tlm")

    def views(self, report: Document, full: bool) -> list[View]:
        return []

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        floats = self.embedding_bits > 8
        table = "as floats" if floats else f"in {self.embedding_bits}"
        told = f"{human(self.rounded)} weights in {self.bits} bits, embeddings {table}"
        told += f"; {human(self.left)} numbers stay floats; "
        loads = "transformers loads it with the package compressed-tensors, without tlm"
        return [("bits", told + (loads if self.plain else "it loads after import tlmtool"))]
