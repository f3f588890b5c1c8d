"""The command line: flags -> Recipe -> command -> Report, and nothing else.

Heavy imports happen inside the command, so that `--help` needs typer and rich only.
"""

import contextlib
import errno
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any, NoReturn

import typer

from tlmtool.failure import Failure
from tlmtool.flags import command
from tlmtool.schema import decompositions

COMMANDS = {  # verb: (what it does, an example)
    "compress": (
        "Factorize linear layers of a pretrained model: fewer parameters, same checkpoint format.",
        "tlm compress minilm --rank 8 --out out/m8",
    ),
    "merge": (
        "Multiply a checkpoint's factors out again: a plain checkpoint that needs no tlm.",
        "tlm merge out/m8 --out out/m8-dense",
    ),
    "overparam": (
        "Make linear layers larger by exact MPO: more parameters to train, the same function.",
        "tlm overparam minilm --growth 3 --out out/m3",
    ),
    "finetune": (
        "Train a checkpoint on a task; over-parameterized by MPO meanwhile, or taught by another.",
        "tlm finetune minilm --task cola --data cola/ --strategy dynamic --N 6 --n 2",
    ),
    "profile": (
        "Count parameters by role, FLOPs, bytes, and measure memory and latency.",
        "tlm profile minilm --against out/m8 --seq-len 128,512",
    ),
    "evaluate": (
        "Score a model: language-model loss, similarity, feature error, or a task of finetune.",
        "tlm evaluate out/m8 --task similarity --data pairs.csv --baseline minilm",
    ),
}
QUIET = {  # third parties, unless -v and unless the user's environment says otherwise
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
THREADS = {"GOMP_SPINCOUNT": "2000"}  # waiting threads soon sleep: 4x faster on a busy machine
NOISY = ("transformers", "huggingface_hub", "datasets", "torch", "httpx", "filelock", "accelerate")

app = typer.Typer(
    name="tlm",
    help="Pretrained transformers as tensors: compress, fine-tune over-parameterized, measure.",
    epilog=f"Example: {COMMANDS['compress'][1]}",
    add_completion=False,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "default_map": {"help": False},  # of itself None, for which typer would import pydantic
    },
)


def main() -> NoReturn:
    """The entry point `tlm`."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Runs `tlm` with these arguments; prints a failure as one sentence; the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter gets a "?"
    if "NO_COLOR" in os.environ:
        import typer.rich_utils

        typer.rich_utils.COLOR_SYSTEM = None  # the help: no bold either
    try:
        code = app(args=args or ["--help"], prog_name="tlm", standalone_mode=False) or 0
        sys.stdout.flush()
        return _interrupted() if code == 130 else code
    except Failure as failure:
        return _fail(str(failure), failure.code)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(_os_sentence(error), 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own usage errors have it
            raise
        return _fail(_usage_sentence(error), 2)


def _fail(sentence: str, code: int) -> int:
    print(f"tlm: {' '.join(sentence.split())}", file=sys.stderr)
    return code


def _interrupted() -> int:
    return _fail("interrupted", 130)


def _os_sentence(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk is full{f': {error.filename}' if error.filename else ''}; free some space"
    named = f"{error.filename}: " if error.filename else ""
    return f"{named}{error.strerror or error}"


def _usage_sentence(error: Any) -> str:
    """Typer's complaint in one sentence, with the nearest option or command."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "tlm"
    if (option := getattr(error, "option_name", None)) and type(error).__name__ == "NoSuchOption":
        known = [name for param in context.command.params for name in param.opts] if context else []
        near = get_close_matches(option, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else f"see {path} --help"
        return f"{path} has no option {option}; {hint}"
    sentence = " ".join(error.format_message().split()).rstrip(".").replace(". Did", "; did")
    return f"{sentence[:1].lower()}{sentence[1:]}; see {path} --help"


# ---- from a parsed command line to a printed report


def perform(verb: str, given: dict[str, Any]) -> None:
    """Builds the recipe, runs the command of `tlmtool.commands`, prints its report, checks it."""
    control = {name: given.pop(name) for name in ("recipe", "sets", "as_json", "quiet", "verbose")}
    verbose = bool(control["verbose"])
    flags = {name: value for name, value in given.items() if value is not False}
    try:
        with _calm(verbose, bool(control["quiet"])), contextlib.redirect_stdout(sys.stderr):
            from tlmtool import recipe as recipes
            from tlmtool.commands import perform as report_of

            recipe = recipes.build(verb, flags, control["sets"] or (), control["recipe"])
            report = report_of(recipe)
    except (Failure, BrokenPipeError):
        raise
    except Exception as error:
        if verbose:
            traceback.print_exc()
        raise _explained(error) from error
    if os.environ.get("RANK", "0") != "0":
        return  # of several processes one speaks
    if control["as_json"]:
        sys.stdout.write(report.to_json() + "\n")
    else:
        report.table(_console(), full=verbose)
    sys.stdout.flush()
    if recipe.output.fail_if:
        report.check(recipe.output.fail_if)


def _explained(error: Exception) -> Exception:
    """The failure to show for an exception that no command turned into a sentence."""
    if "No space left on device" in str(error):  # safetensors raises its own type
        return OSError(errno.ENOSPC, "No space left on device", getattr(error, "filename", None))
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Failure("out of memory: try a smaller batch or length, or another --device")
    if isinstance(error, OSError) and error.filename:
        return error
    what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return Failure(f"internal error: {what} (please report; -v shows the traceback)")


@contextlib.contextmanager
def _calm(verbose: bool, quiet: bool) -> Iterator[None]:
    """Our log on stderr (-q: warnings only, -v: everything); third parties silent unless -v."""
    own = logging.getLogger("tlmtool")
    handler = logging.StreamHandler(sys.stderr)
    own.addHandler(handler)
    own.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    own.propagate = False
    for name, value in (THREADS if verbose else THREADS | QUIET).items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        if not verbose:
            warnings.simplefilter("ignore")
            for name in NOISY:
                logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            own.removeHandler(handler)
            own.propagate = True


def _console() -> Any:
    """Standard output, at most 100 columns; without escape codes in a pipe or with NO_COLOR."""
    from rich.console import Console

    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    found = Console(color_system=None if plain else "auto", highlight=False, emoji=False)
    return Console(
        width=100 if not sys.stdout.isatty() else min(100, found.width),
        color_system=None if plain else "auto",
        highlight=False,
        emoji=False,
        markup=False,
    )


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"tlm {version('tlmtool')}")
        except PackageNotFoundError:
            typer.echo("tlm (not installed)")
        raise typer.Exit


@app.callback()
def _everything(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


for _verb, (_, _example) in COMMANDS.items():
    _forms = ["Forms:", *(f"[bold]{n}[/] {t}" for n, t in decompositions().items())]
    _epilog = [f"Example: {_example}", *(_forms if _verb == "compress" else [])]
    app.command(_verb, epilog="\n\n".join(_epilog))(command(_verb, COMMANDS[_verb][0], perform))
