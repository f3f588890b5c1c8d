"""an ONNX graph for ONNX Runtime, with a tokenizer and pooling beside it"""

from pathlib import Path
from typing import Any, ClassVar

from tlmtool.exporting._graph import write_graph
from tlmtool.exporting._inputs import Signature
from tlmtool.exporting._running import Runner
from tlmtool.exporting._runtime import Runtime
from tlmtool.exporting._session import of_file, round_file


class Onnx(Runtime):
    """An ONNX graph, as optimum and sentence-transformers name it."""

    extra: ClassVar[str] = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript")
    file: ClassVar[str] = "onnx/model.onnx"
    opens: ClassVar[str] = "ONNX Runtime 1.18 or newer; loading needs neither tlm nor torch"
    program: ClassVar[str] = "onnxruntime"
    library: ClassVar[str] = "onnx"

    def graph(self, model: Any, made: Signature, file: Path) -> None:
        write_graph(model, made, file)

    def rounded(self, file: Path, to: Path) -> None:
        round_file(file, to)

    def runner(self, file: Path) -> Runner:
        return of_file(file)

    def opening(self, folder: str, made: Signature) -> str:
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{folder}/{self.file}")\n'
            "print([each.name for each in session.get_inputs()])"
        )
