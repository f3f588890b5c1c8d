"""an OpenVINO graph for Intel processors, with a tokenizer and pooling beside it"""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tlmtool.exporting._graph import write_graph
from tlmtool.exporting._inputs import Signature
from tlmtool.exporting._quiet import quiet
from tlmtool.exporting._running import Runner
from tlmtool.exporting._runtime import Runtime


class OpenVino(Runtime):
    """An OpenVINO graph, converted from the ONNX one, as optimum and sentence-transformers name it.

    The weights of `--bits 8` are rounded by nncf, and multiplied as floats.
    """

    extra: ClassVar[str] = "openvino"
    packages: ClassVar[tuple[str, ...]] = ("openvino", "nncf", "onnx", "onnxscript")
    file: ClassVar[str] = "openvino/openvino_model.xml"
    opens: ClassVar[str] = "OpenVINO 2025 or newer; loading needs neither tlm nor torch"
    program: ClassVar[str] = "OpenVINO"
    library: ClassVar[str] = "openvino"

    def graph(self, model: Any, made: Signature, file: Path) -> None:
        """Write the graph of a model in float32: one .xml with its weights in a .bin."""
        import openvino

        between = file.with_name("between.onnx")
        write_graph(model, made, between)
        openvino.save_model(openvino.convert_model(between), file, compress_to_fp16=False)
        for each in between.parent.glob(f"{between.name}*"):  # perhaps with its weights beside it
            each.unlink()

    def rounded(self, file: Path, to: Path) -> None:
        """Write a graph with its weights in 8 bits."""
        import nncf
        import openvino

        found = openvino.Core().read_model(file)
        with quiet():
            mode = nncf.CompressWeightsMode.INT8_ASYM
            openvino.save_model(nncf.compress_weights(found, mode=mode), to)

    def runner(self, file: Path) -> Runner:
        """A file on the CPU, in float32, with as many threads as torch has."""
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = openvino.Core().compile_model(file, "CPU", settings)
        names = [each.get_any_name() for each in compiled.inputs]

        def run(given: dict[str, Tensor]) -> list[Tensor]:
            found = compiled({name: given[name].numpy() for name in names})
            return [torch.from_numpy(found[each].copy()) for each in compiled.outputs]

        return run

    def opening(self, folder: str, made: Signature) -> str:
        """A few lines of Python that open the file."""
        return (
            "import openvino\n\n"
            f'model = openvino.Core().compile_model("{folder}/{self.file}", "CPU")\n'
            "print([each.get_any_name() for each in model.inputs])"
        )
