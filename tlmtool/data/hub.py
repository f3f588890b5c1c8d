"""Data sets of the Hub, by the optional `datasets`; without a network, those of its cache."""

import os
import re
from pathlib import Path
from typing import Any

from tlmtool.data.text import place
from tlmtool.failure import MissingDependency, NotLoadable, first_line
from tlmtool.models.network import offline, unreachable

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def library(source: str, kind: str = "") -> Any:
    """The package `datasets`. Raises MissingDependency; `kind` is what the source is."""
    try:
        import datasets
    except ImportError as error:
        kind = kind or "is no file here; if it is a data set of the Hub"
        raise MissingDependency(
            f"{source} {kind}: the package `datasets` is needed (pip install datasets)"
        ) from error
    return datasets


def load(name: str, *part: str, configs: tuple[str, ...] = ()) -> Any:
    """A data set of the Hub, or the part of it that is named; of `configs`, the first that it has.

    Raises NotLoadable where it cannot be had, and says so where there is no network.
    """
    datasets, why = library(name), unreachable()
    with offline(bool(why)):
        try:
            if configs:
                there = datasets.get_dataset_config_names(name)
                part = tuple([each for each in configs if each in there][:1])
            return datasets.load_dataset(name, *part)
        except Exception as error:  # the library and the network raise too many kinds to name
            if why:
                raise _no_network(name, why) from error
            raise NotLoadable(
                f"{name} cannot be loaded by `datasets`: {first_line(error)[:200]}"
            ) from error


def check_reachable(name: str) -> None:
    """Raises NotLoadable, within seconds, for what can only be a data set of the Hub while the Hub
    cannot be reached and nothing of it is cached. It is for use before slow imports."""
    if place(name).exists() or Path(name).suffix or not HUB_NAME.fullmatch(name):
        return
    if not _is_cached(name) and (why := unreachable()):
        raise _no_network(name, why)


def _no_network(name: str, why: str) -> NotLoadable:
    return NotLoadable(
        f"no network: {name} is neither a file nor in the cache of the Hub's data sets, and the "
        f"Hub cannot be reached ({why}); name a file or a folder"
    )


def _is_cached(name: str) -> bool:
    """Whether `datasets` keeps something under a name like this one."""
    from huggingface_hub import constants

    home = os.environ.get("HF_DATASETS_CACHE") or os.path.join(constants.HF_HOME, "datasets")
    folder = Path(home).expanduser()
    return folder.is_dir() and _letters(name) in {_letters(each.name) for each in folder.iterdir()}


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())
