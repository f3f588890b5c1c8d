"""A checkpoint's folder: its files are checked and read when first asked for, and kept."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, Union

from tlmtool.files.reading import sha256
from tlmtool.models.beside import side_files
from tlmtool.models.config import read_config
from tlmtool.models.finding import replaced_by_minilm, resolve
from tlmtool.models.front import front_matter
from tlmtool.models.gguf import Origin
from tlmtool.models.guarding import guard
from tlmtool.models.quantized import by_config, by_tensors, check_installed, refusal
from tlmtool.models.tokens import check_tokenizer
from tlmtool.models.unpacking import origin_of
from tlmtool.models.weights import Stored, headers

Name = Union[str, os.PathLike[str], "Folder"]  # what stands for a folder where one is asked for
# Any of these files in a folder shows that it holds a tokenizer.
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
)


class Folder(os.PathLike[str]):
    """The folder of a checkpoint, at `path`, asked for by the name `asked`.

    Everything here is read lazily and kept, so one command reads each file once. Every property
    raises NotLoadable, in one sentence, for files that are broken, too large or outside of the
    folder.
    """

    def __init__(self, path: str | os.PathLike[str], asked: str | None = None):
        self.path = Path(path)
        self.asked = os.fspath(path) if asked is None else asked

    @classmethod
    def of(cls, name: Name, revision: str | None = None) -> "Folder":
        """The folder of a model by its name: a path, a known name, an alias, or a Hub id.

        Raises as `finding.resolve` does. A `Folder` is returned as it is.
        """
        if isinstance(name, Folder):
            return name
        asked = os.fspath(name)
        return cls(resolve(asked, revision), asked)

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Folder({str(self.path)!r})"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @cached_property
    def origin(self) -> Origin | None:
        """The GGUF file that the folder was unpacked from; None for any other folder."""
        return origin_of(self.path)

    @property
    def notes(self) -> tuple[str, ...]:
        """What every report on this model says: that it was rounded before, or read otherwise than
        it was asked for."""
        if replaced_by_minilm(self.asked, self.path):
            return (f"the Hub cannot be reached: minilm, the same model, stands for {self.asked}",)
        return () if self.origin is None else (str(self.origin), *self.origin.notes)

    @cached_property
    def checked(self) -> Path:
        """The path, once every file that may be opened has been found to be an ordinary file."""
        guard(self.path)
        return self.path

    def check(self, weights: bool = False) -> None:
        """Raises NotLoadable where this is no checkpoint that tlm can work on; with `weights`, also
        for what is wrong with the files of weights."""
        _ = (self.config, self.tensors) if weights else self.config
        if weights and not self.quantized and (how := by_tensors(self.tensors)):
            raise refusal(self.path, how)
        if self.quantized:
            check_installed(f"{self.path}, quantized by tlm,")

    @property
    def quantized(self) -> str:
        """How the weights are quantized, in words; empty where they are floats. They are unpacked
        into floats when they are loaded."""
        return by_config(self.config)

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json, checked for what tlm can work on."""
        return read_config(self.checked)

    @cached_property
    def _headers(self) -> tuple[list[Path], dict[str, Stored]]:
        return headers(self.checked)

    @property
    def tensors(self) -> dict[str, Stored]:
        """{name: shape and dtype} of the tensors in the files of weights; no number is read."""
        return self._headers[1]

    @property
    def weight_files(self) -> list[Path]:
        """The files of weights that transformers will load; none where they hold no tensor."""
        return self._headers[0] if self.tensors else []

    @property
    def file_bytes(self) -> int:
        """Bytes of the files of weights; of a GGUF file, before it was unpacked."""
        return (
            self.origin.bytes
            if self.origin
            else sum(file.stat().st_size for file in self.weight_files)
        )

    @cached_property
    def sums(self) -> dict[str, str]:
        """{file of weights: its sha256}"""
        if self.origin is not None:
            return {self.origin.file: self.origin.sha256}
        return {str(f.relative_to(self.path)): sha256(f) for f in self.weight_files}

    @property
    def marks(self) -> dict[str, str]:
        """{file: its sha256} of the weights and of config.json, which can make another model of
        equal weights."""
        config = self.path / "config.json"
        return self.sums | ({"config.json": sha256(config)} if config.is_file() else {})

    @cached_property
    def front(self) -> dict[str, Any]:
        """The front matter of the model card (README.md), or what a GGUF file says of it."""
        if self.origin is not None:
            return {"license": self.origin.license, "base_model": self.origin.made_from}
        return front_matter(self.path)

    @cached_property
    def beside(self) -> tuple[list[Path], list[str]]:
        """(paths, below the folder, of the files that travel with the weights; what to say of
        those that stay)."""
        return side_files(self.path)

    @cached_property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer, which is then safe to load."""
        if not any((self.checked / name).exists() for name in TOKENIZERS):
            return False
        check_tokenizer(self.path)
        return True
