"""The files of a tokenizer, checked before a tokenizer is made of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text
from tlmtool.models.guarding import OTHER

MOST = 10**6  # the largest number that tokenizer_config.json may ask for, as of added tokens
GROWTH = 10_000  # how many times as long a normalizer may make a text; more takes all the memory


def check_tokenizer(folder: Path) -> None:
    """Raises NotLoadable for a tokenizer that would take memory without bound: by the number of
    tokens that it adds, or by replacements that feed each other."""
    config, made = _read(folder / "tokenizer_config.json"), _read(folder / "tokenizer.json")
    for key, value in config.items():
        counts = isinstance(value, int | float) and "length" not in key  # a length is only a bound
        if counts and value > MOST:
            raise NotLoadable(f"{folder / 'tokenizer_config.json'} says {key} is {value}")
    growth = 1.0
    for step in _steps(made.get("normalizer")):
        growth *= _growth(step)
        if growth > GROWTH:
            raise NotLoadable(
                f"{folder / 'tokenizer.json'} has a normalizer that makes a text more than "
                f"{GROWTH:,} times as long"
            )


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    try:
        found = json.loads(read_text(file, OTHER))
    except FileNotFoundError:
        return {}
    except NotLoadable:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise NotLoadable(f"the tokenizer in {file} cannot be loaded: {error}") from None
    return found if isinstance(found, dict) else {}


def _steps(normalizer: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, nested ones included."""
    waiting = [normalizer]
    while waiting:
        step = waiting.pop()
        if isinstance(step, dict):
            yield step
            inner = step.get("normalizers")
            waiting += inner if isinstance(inner, list) else []


def _growth(step: dict[str, Any]) -> float:
    """How many times as long one step can make a text."""
    new, pattern = step.get("content"), step.get("pattern")
    if step.get("type") == "Prepend":
        return max(1, len(str(step.get("prepend") or "")))
    if step.get("type") != "Replace" or not isinstance(new, str):
        return 1
    old = pattern.get("String") if isinstance(pattern, dict) else pattern
    return max(1.0, len(new) / max(1, len(old)) if isinstance(old, str) else len(new) + 1)
