"""GGUF files: what one says about itself, checked before transformers unpacks it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlmtool.failure import MissingDependency, NotLoadable, blaming
from tlmtool.files.reading import regular
from tlmtool.models.pickles import is_pickle

SUFFIX = ".gguf"
PLAIN = ("F64", "F32", "F16", "BF16")  # types of tensors that hold ordinary numbers


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The GGUF file that weights were unpacked from. `tensors` counts them by type."""

    file: str
    bytes: int
    sha256: str
    quantization: str
    tensors: dict[str, int]
    license: str | None = None
    made_from: str | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What a report keeps."""
        return {key: value for key, value in asdict(self).items() if key != "notes"}

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {name}" for name, n in self.tensors.items())
        said = f"the weights come from {self.file}, {self.bytes:,} bytes of {self.quantization}"
        rounded = "" if self.quantization in PLAIN else ", and keep the rounding that it made"
        return f"{said} (tensors: {kinds}){rounded}"


def is_gguf(path: Path) -> bool:
    """Whether a file is GGUF by its name."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds its weights in no other form; None where there is none.

    Raises NotLoadable for several.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError:  # whoever reads the folder has the sentence for that
        return None
    found = [file for file in files if is_gguf(file)]
    if not found or any(f.suffix == ".safetensors" or is_pickle(f.name) for f in files):
        return None
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:8]) + (" ..." if found[8:] else "")
        raise NotLoadable(f"{folder} holds several GGUF files, {names}: give the path of one")
    return found[0]


def header(file: Path) -> tuple[Any, dict[str, Any]]:
    """(the reader of the package `gguf`, metadata of a GGUF file).

    Raises MissingDependency without that package, NotLoadable for a file that is damaged, one part
    of several, or of an impossible size.
    """
    try:
        import gguf
    except ImportError:
        raise MissingDependency(
            f"{file} is a GGUF file, which needs the gguf extra: pip install 'tlmtool[gguf]'"
        ) from None
    from transformers.integrations.gguf import read_gguf_metadata

    from tlmtool.models.config import MOST  # here, since it imports transformers

    with blaming(f"{file} is damaged or no GGUF file"):
        found, _ = read_gguf_metadata(str(regular(file)))  # fast: a wrong count ends it at once
    if isinstance(parts := found.get("split.count"), int) and parts > 1:
        raise NotLoadable(
            f"{file} is one of {parts} parts of a model: join them with gguf-split --merge"
        )
    for key, value in found.items():
        if key.endswith(".block_count") and (not isinstance(value, int) or value > MOST["layer"]):
            raise NotLoadable(f"{file} says {key} is {value}: at most {MOST['layer']} is possible")
    with blaming(f"{file} is damaged or incomplete"):
        return gguf.GGUFReader(file), found


def origin(file: Path, reader: Any, metadata: dict[str, Any], sha256: str) -> Origin:
    """What is kept of a GGUF file beside its weights."""
    kinds = Counter(str(tensor.tensor_type.name) for tensor in reader.tensors)
    licence, home = metadata.get("general.license"), metadata.get("general.base_model.0.repo_url")
    return Origin(
        file=file.name,
        bytes=file.stat().st_size,
        sha256=sha256,
        quantization=_quantization(metadata.get("general.file_type"), kinds),
        tensors=dict(kinds.most_common()),
        license=licence if isinstance(licence, str) else None,
        made_from="/".join(home.split("/")[-2:]) if isinstance(home, str) else None,
    )


def unpacked_dtype(reader: Any) -> str:
    """The dtype of the unpacked weights: float32, or the half one of a file without quantization,
    whose norms alone are in float32."""
    kinds = {str(tensor.tensor_type.name) for tensor in reader.tensors}
    if kinds <= {"F32", "F16", "BF16"}:
        return "bfloat16" if "BF16" in kinds else "float16" if "F16" in kinds else "float32"
    return "float32"


def unpacked_bytes(reader: Any) -> int:
    """Bytes of the tensors once unpacked."""
    size = 4 if unpacked_dtype(reader) == "float32" else 2
    return size * sum(int(tensor.n_elements) for tensor in reader.tensors)


@contextmanager
def read_once(reader: Any, progress: Any) -> Iterator[None]:
    """Let transformers use a reader that is open already, and show its progress as ours.

    It opens a file four times, which takes seconds for each hundred thousand tokens.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils as theirs

    def counted(tensors: Any, **_: Any) -> Iterator[Any]:
        for done, each in enumerate(tensors, 1):
            yield each
            progress(done, len(tensors))

    ours = ((gguf, "GGUFReader", lambda *_: reader), (theirs, "tqdm", counted))
    before = [getattr(place, name) for place, name, _ in ours]
    try:
        for place, name, value in ours:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(ours, before, strict=True):
            setattr(place, name, value)


def unreadable(file: Path, metadata: dict[str, Any]) -> str:
    """The begin of the sentence on a file that transformers cannot read."""
    return (
        f"{file}, of architecture {metadata.get('general.architecture')}, cannot be unpacked by "
        f"transformers {version('transformers')}, so give a folder of safetensors"
    )


def _quantization(file_type: Any, kinds: "Counter[str]") -> str:
    """'Q4_K_M': what the file says it is, or else the type of most of its tensors."""
    from gguf import LlamaFileType

    try:
        return LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    except ValueError:
        return next((name for name, _ in kinds.most_common()), "no tensors")
