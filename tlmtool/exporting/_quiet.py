"""Exporters and quantizers without their advice and their tables."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

LOGGERS = ("", "nncf", "onnx_ir", "onnxscript", "torch.onnx")  # the first one is the root


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, these libraries print errors alone, unless everything is to be shown (`-v`)."""
    if logging.getLogger("tlmtool").isEnabledFor(logging.DEBUG):
        yield
        return
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
