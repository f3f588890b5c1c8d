"""Turns whatever ended a run into one sentence and an exit code."""

import errno
import os
import re
from difflib import get_close_matches
from typing import Any

from tlmtool.cli.typed import command_meant, flag_meant
from tlmtool.failure import Failure, NotLoadable, Stopped, Usage, first_line

SYSTEM = {  # an error of the operating system: what happened, and what a user can do about it
    "ENOSPC": "the disk is full{at}; free some space",
    "EDQUOT": "the quota of disk space is used up{at}; free some space",
    "EFBIG": "a file would grow beyond the size allowed{at}; raise the limit (ulimit -f)",
    "EROFS": "the file system is read-only{at}; write elsewhere",
    "EIO": "the device failed to read or write{at}",
    "EMFILE": "too many files are open{at}; raise the limit (ulimit -n)",
    "ENFILE": "too many files are open on this machine{at}",
}
NUMBERS = {getattr(errno, name): text for name, text in SYSTEM.items() if hasattr(errno, name)}
CUT = ("unexpected pos", "PytorchStreamWriter failed")  # torch says so if a write fails
MEMORY = ("can't allocate memory", "OutOfMemoryError")  # torch says so on a CPU and on a GPU


def explained(error: BaseException) -> tuple[str, int]:
    """(sentence, exit code) of any error, also of one that nothing turned into a Failure."""
    if isinstance(error, Failure | Stopped):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if hasattr(error, "format_message"):  # a usage error of typer
        return _usage(error), Usage.code
    if sentence := _system(error):
        return sentence, Failure.code
    kind, text = type(error).__name__, str(error)
    if "Could not determine home directory" in text:
        return "a path begins with ~, but the home directory is unknown: write it out", Usage.code
    if isinstance(error, MemoryError) or any(each in f"{kind} {text}" for each in MEMORY):
        return "out of memory: try a smaller batch or length, or another --device", Failure.code
    if any(each in text for each in CUT):
        return "a file could not be written whole: is the disk, or a quota, full?", Failure.code
    if isinstance(error, RecursionError):
        return "the input nests too deep to be read", NotLoadable.code
    if kind == "PanicException":  # from Rust, where it is no Exception
        return f"a library failed on its input: {first_line(error)}", NotLoadable.code
    if isinstance(error, SystemExit):
        return f"a library ended the run: SystemExit {text}", Failure.code
    what = f"{kind}: {first_line(error) if text else 'no message'}"
    return f"internal error: {what} (please report; -v shows the traceback)", Failure.code


def _system(error: BaseException) -> str | None:
    """What the operating system refused, also if a library wrapped it in an error of its own.

    None for other errors.
    """
    number, text = getattr(error, "errno", None), str(error)
    if found := re.search(r"\(os error (\d{1,3})\)|\bOs \{ code: (\d{1,3})\b", text):  # from Rust
        number = int(found[1] or found[2])
    if not isinstance(number, int):
        number = next((each for each in NUMBERS if os.strerror(each) in text), None)
    name = getattr(error, "filename", None)
    if number in NUMBERS:
        return NUMBERS[number].format(at="" if name is None else f": {name}")
    if not isinstance(error, OSError) or error.errno is None:
        return None
    return f"{'' if name is None else f'{name}: '}{error.strerror or error}"


def _usage(error: Any) -> str:
    """What typer refuses, in one sentence, with the nearest option or command."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "tlm"
    if (option := getattr(error, "option_name", None)) and type(error).__name__ == "NoSuchOption":
        flags = [name for param in context.command.params for name in param.opts] if context else []
        near = [name for name in get_close_matches(option, flags, 3, 0.5) if name[:1] == "-"]
        hint = f"did you mean {near[0]}?" if near else f"see {path} --help"
        return f"{path} has no option {option}; {flag_meant(option, flags, path) or hint}"
    unknown = re.search(r"[Nn]o such command ['\"](.+?)['\"]", error.format_message())
    if unknown and (known := command_meant(unknown[1])):
        return f"tlm has no command {unknown[1]}: {known}"
    sentence = " ".join(error.format_message().split()).rstrip(".").replace(". Did", "; did")
    return f"{sentence[:1].lower()}{sentence[1:]}; see {path} --help"
