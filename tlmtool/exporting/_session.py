"""ONNX files with onnxruntime: a session as a runner, and weights rounded to 8 bits."""

from pathlib import Path

import torch
from torch import Tensor

from tlmtool.exporting._quiet import quiet
from tlmtool.exporting._running import Runner

ERRORS = 3  # of onnxruntime's log levels: warnings are of its optimizer alone


def of_file(file: Path) -> Runner:
    """An ONNX file as a runner, with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS
    session = onnxruntime.InferenceSession(str(file), options, ["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(given: dict[str, Tensor]) -> list[Tensor]:
        found = session.run(None, {name: given[name].numpy() for name in names})
        return [torch.from_numpy(each) for each in found]

    return run


def round_file(file: Path, rounded: Path) -> None:
    """Write an ONNX file with its matrices and tables in 8 bits, by onnxruntime's quantizer. It
    rounds the inputs of each product too, while the graph runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(str(file), str(rounded), weight_type=QuantType.QInt8, per_channel=True)
