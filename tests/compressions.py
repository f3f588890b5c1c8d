"""Small compressions that several test files start: their models, text, words and interruptions."""

import json
import signal
from pathlib import Path

import pytest
from conftest import WORDS, pico, word_tokenizer
from trainings import interrupted

from tlmtool.cli import run
from tlmtool.compression.journal import Journal

MEASURED = ("seconds", "forecast", "streamed", "peak_memory_bytes", "peak_rss_bytes")
SMALL = ["--sites", "all", "-q", "--device", "cpu", "--max-length", "12"]
WRITE = Journal.write


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    return file


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    found = {}
    for family in ("bert", "llama", "t5"):
        found[family] = folder = tmp_path_factory.mktemp("models") / family
        pico(family, "lm").save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
    return found


@pytest.fixture
def inputs(tmp_path) -> dict[str, str]:
    """The paths of a masked language model and of a text, for a recipe file."""
    model, text = tmp_path / "model", tmp_path / "texts.txt"
    pico("bert", "lm").save_pretrained(model)
    word_tokenizer().save_pretrained(model)
    text.write_text("\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(11)) + "\n")
    return {"model": str(model), "text": str(text)}


def arguments(model, texts, out, *more) -> list[str]:
    given = [] if "--calibration" in more else ["--calibration", texts]
    return [*map(str, ["compress", model, *given, "--out", out, *SMALL, *more])]


@pytest.fixture
def words(models, texts, tmp_path) -> list[str]:
    return arguments(models["bert"], texts, tmp_path / "out", "--keep", "0.5")


@pytest.fixture
def stopped(monkeypatch, capsys):
    """Runs that end where so many groups are finished; returns what the last one said."""
    limit = [0, interrupted]
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background

    def write(self, *given):
        if len(self.groups) == limit[0]:
            limit[1](signal.SIGINT)
        WRITE(self, *given)

    def call(words: list[str], groups: int, ends=interrupted, code: int = 130) -> str:
        limit[:] = [groups, ends]
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "write", write)
            assert run(words) == code
        return capsys.readouterr().err

    yield call
    signal.signal(signal.SIGINT, heard)


def made(folder: Path) -> dict[str, object]:
    """{file: content} of a result, without what was measured on the way."""
    found: dict[str, object] = {file.name: file.read_bytes() for file in folder.iterdir()}
    report = json.loads(found.pop("report.json"))
    shown = ("README.md", "recipe.yaml", "report.png")  # of what was measured, among the rest
    found = {name: each for name, each in found.items() if name not in shown}
    found["report"] = {k: v for k, v in report.items() if k not in (*MEASURED, "model", "recipe")}
    return found
