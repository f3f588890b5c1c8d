"""The verb push: the files of a checkpoint go to the Hugging Face Hub in one commit."""

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tlmtool.failure import Failure, NotLoadable, Usage, first_line
from tlmtool.files.places import path_of
from tlmtool.models.folder import Folder
from tlmtool.models.guarding import inside
from tlmtool.models.network import unreachable
from tlmtool.report.figures import View, human
from tlmtool.report.layout import SCHEMA_VERSION

log = logging.getLogger("tlmtool")


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or with a dry run would be. `files`: {path below the folder: bytes}."""

    id: str
    private: bool
    dry_run: bool
    url: str | None
    files: dict[str, int]

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verb": "push",
            **asdict(self),
            "bytes": self.bytes,
        }

    def view(self) -> View:
        """The files as a table."""
        rows = [[name, human(size, "B")] for name, size in self.files.items()]
        rows.append([f"all {len(self.files)} files", human(self.bytes, "B")])
        return View("files", ["", "size"], rows)

    def said(self) -> str:
        """What was done, in a sentence."""
        kind = "private" if self.private else "public"
        if self.dry_run:
            return f"nothing was uploaded: without --dry-run these files go to {self.id}, {kind}"
        return f"uploaded to {self.url}, {kind}"


def push(
    folder: str | os.PathLike[str], repo: str, *, private: bool = True, dry_run: bool = False
) -> Pushed:
    """Upload a checkpoint to the Hub as the model `repo`, which is made where there is none.

    A repository that exists keeps its visibility; one that is public takes files only where
    `private` is False. Raises NotLoadable for a folder that is no checkpoint, Usage for an id that
    the Hub does not take, Failure without a token or a network, and where the Hub refuses.
    """
    place = _checkpoint(folder)
    _check_id(repo)
    files = _files(place)
    pushed = Pushed(repo, private, dry_run, None, files)
    if dry_run:
        return pushed
    api = _api(repo)
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        held = _made(api, repo, private)
        _upload(api, repo, place, files)
    except HfHubHTTPError as error:
        raise Failure(f"the Hub refused the upload to {repo}: {_why(error)}") from error
    except (HTTPError, OSError, ValueError) as error:
        if isinstance(error, Failure):
            raise
        raise Failure(f"the upload to {repo} failed: {first_line(error)}") from error
    return Pushed(repo, held, False, f"{api.endpoint}/{repo}", files)


def _checkpoint(folder: str | os.PathLike[str]) -> Path:
    place = path_of(folder)
    if not place.is_dir():
        raise NotLoadable(f"{place} is no folder: give the folder of a checkpoint")
    Folder(place).check(weights=True)
    return place


def _check_id(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise Usage(f"{repo} is no id of the Hub: {first_line(error)}") from None
    if "/" not in repo:
        raise Usage(f"{repo} is no id of the Hub: give it as NAME/{repo}, with your name there")


def _files(folder: Path) -> dict[str, int]:
    """{path: bytes} of all files but hidden ones, in order. Raises Usage for a link that leads out
    of the folder, since what it leads to may be private."""
    found: dict[str, int] = {}
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder)
        if any(part.startswith(".") for part in path.parts) or file.is_dir():
            continue
        if not inside(file, folder) or not file.is_file():
            raise Usage(f"{file} is a link out of the folder, or no ordinary file: remove it first")
        found[path.as_posix()] = file.stat().st_size
    return found


def _api(repo: str) -> Any:
    """The client of the Hub. Raises Failure without a token or a network."""
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise Failure(
            f"there is no token of the Hub to upload {repo} with: run `hf auth login`, or set "
            "HF_TOKEN to one that may write"
        )
    if why := unreachable():
        raise Failure(f"no network: nothing was uploaded to {repo}, the Hub is not reached ({why})")
    return HfApi(library_name="tlmtool")


def _made(api: Any, repo: str, private: bool) -> bool:
    """Make the repository where there is none; returns whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        held = bool(api.model_info(repo).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, private=private, exist_ok=True)
        return private
    if private and not held:
        raise Usage(f"{repo} exists and is public: give --public to upload to it, or another ID")
    if held and not private:
        log.warning("warning: %s exists and is private, and stays so", repo)
    return held


def _upload(api: Any, repo: str, folder: Path, files: dict[str, int]) -> None:
    """One commit of these files. Large ones travel first, one by one."""
    from huggingface_hub import CommitOperationAdd

    added = [CommitOperationAdd(path, folder / path) for path in files]
    for each, size in zip(added, files.values(), strict=True):
        log.info("uploading %s (%s)", each.path_in_repo, human(size, "B"))
        api.preupload_lfs_files(repo, [each])
    api.create_commit(repo, added, commit_message="Upload a checkpoint with tlm push")


def _why(error: Any) -> str:
    """What the Hub answered, and what can be done about it."""
    status = getattr(error.response, "status_code", None)
    advice = {401: "; the token is not valid", 403: "; the token may not write there"}
    return f"{first_line(error)}{advice.get(status, '')}"
