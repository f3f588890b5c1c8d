"""The command line: flags -> Recipe -> command -> Report, and nothing else.

Heavy imports happen inside the command, so that `--help` needs typer and rich only.
"""

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Collection
from typing import Annotated, NoReturn

import typer

from tlmtool.cli import flags
from tlmtool.cli.comparison import compare_results
from tlmtool.cli.completing import line_to_complete
from tlmtool.cli.explaining import explained
from tlmtool.cli.flags import Command, Commands, command, parameters
from tlmtool.cli.performing import perform
from tlmtool.cli.pipeline import run_file
from tlmtool.cli.pushing import push_folder
from tlmtool.cli.stopping import stopping
from tlmtool.cli.telling import examine, inform
from tlmtool.cli.terminal import flushed, open_streams
from tlmtool.cli.typed import meant
from tlmtool.failure import Failure, Stopped, kept_of
from tlmtool.recipe.verbs import BESIDE, FORMER_FLAGS, VERBS
from tlmtool.report.printable import printable

LONGEST = 1200  # characters of a failure; the middle of a longer one is left out
KEYS = "Every flag has a key for --set and for recipe files: see docs/recipes.md."


def main() -> NoReturn:
    """The entry point `tlm`."""
    sys.exit(run(sys.argv[1:]))


def run(args: list[str]) -> int:
    """Runs `tlm` with these arguments and returns the exit status; a failure is one sentence."""
    open_streams()
    if not os.environ.get("TERMINAL_WIDTH", "1").isdecimal():
        del os.environ["TERMINAL_WIDTH"]  # typer would fail to read it as a number
    if "NO_COLOR" in os.environ:
        import typer.rich_utils

        typer.rich_utils.COLOR_SYSTEM = None  # otherwise the help is still bold
    try:
        with stopping():
            code = _run(args)
    except (Stopped, KeyboardInterrupt) as late:  # while a failure was printed
        code = _fail(*explained(late))
    written = [flushed(stream) for stream in (sys.stdout, sys.stderr)]
    return code if written[0] else code or Failure.code


def _run(args: list[str]) -> int:
    try:
        words = meant(_renamed(args)) or ["--help"]
        needed = line_to_complete() or words
        code = application(needed)(args=words, prog_name="tlm", standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return Failure.code
    except SystemExit as ended:  # what typer raises when the reader is gone
        return ended.code if isinstance(ended.code, int) else Failure.code
    except BaseException as error:
        if isinstance(error, OSError) and not isinstance(error, Failure):  # from printing
            return _fail(f"the output cannot be printed: {error.strerror or error}", Failure.code)
        sentence, code = explained(error)
        return _fail(sentence + _going_on(error, args), code)
    return _fail(*explained(KeyboardInterrupt())) if code == 130 else code


def _going_on(error: BaseException, args: list[str]) -> str:
    """What is done of the run that an error ended, and the command that goes on with it."""
    if not (kept := kept_of(error)):
        return ""
    several = re.search(r"(--keep|compression\.keep)[ =]\S+,", " ".join(args))  # budgets
    begun = args[0] == "run" or several or any(each.startswith("--seeds") for each in args)
    again = [each for each in args if each != "--overwrite" or not begun]  # it has replaced them
    words = shlex.join(["tlm", *again, *(["--resume"] if "--resume" not in args else [])])
    return f"; {kept}: go on with {words}"


def _renamed(args: list[str]) -> list[str]:
    """The arguments, with the flags of tlm 0.2 under the names that they have today."""
    names = FORMER_FLAGS.get(args[0], {}) if args else {}
    split = (str(word).partition("=") for word in args)
    return [f"{names.get(flag, flag)}{equals}{value}" for flag, equals, value in split]


def _fail(sentence: str, code: int) -> int:
    told = printable(" ".join(sentence.split()))
    if len(told) > LONGEST:  # it quotes a very long name or value
        told = f"{told[: LONGEST // 2]} ... {told[-LONGEST // 2 :]}"
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(f"tlm: {told}", file=sys.stderr, flush=True)
    return code


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"tlm {version('tlmtool')}")
        except PackageNotFoundError:
            typer.echo("tlm (not installed)")
        raise typer.Exit


# ---- the commands


def application(words: Collection[str]) -> typer.Typer:
    """The command line. Only the commands among `words` get their flags, which takes a while."""
    app = typer.Typer(
        name="tlm",
        cls=Commands,
        callback=_everything,
        help="Make pretrained transformers smaller by tensor decomposition, train them, and "
        "measure what was gained and lost.",
        epilog=f"Example: {VERBS['compress'].example}\n\ntlm COMMAND --help shows the options of a "
        "command.",
        no_args_is_help=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={
            "help_option_names": ["-h", "--help"],
            # by default None, for which typer imports pydantic
            "default_map": dict.fromkeys(("help", "install_completion", "show_completion"), False),
        },
    )
    for name, verb in VERBS.items():
        given, epilog = (parameters(name), _epilog(name)) if name in words else ((), "")
        app.command(name, cls=Command, epilog=epilog)(command(name, verb.help, given, perform))
    work = {
        "info": (flags.info_parameters, inform),
        "compare": (flags.compare_parameters, compare_results),
        "push": (flags.push_parameters, push_folder),
        "run": (flags.pipeline_parameters, run_file),
        "doctor": (flags.outputs, examine),
    }
    for name, verb in BESIDE.items():
        made, done = work[name]
        app.command(name, cls=Command, epilog=f"Example: {verb.example}")(
            command(name, verb.help, made(), done)
        )
    return app


def _everything(
    version: Annotated[
        bool,
        typer.Option(
            *("--version", "-V"),
            callback=_version,
            is_eager=True,
            metavar=" ",
            help="Print the version",
        ),
    ] = False,
) -> None:
    pass


def _epilog(verb: str) -> str:
    """What stands below the options: an example, names, and keys that no flag gives."""
    from tlmtool.recipe.compression import decompositions
    from tlmtool.recipe.exporting import targets
    from tlmtool.recipe.schema import settings

    parts = [f"Example: {VERBS[verb].example}"]
    if verb == "compress":
        found = decompositions()
        wide = max(map(len, found)) + 2
        names = (f"  [bold]{name:<{wide}}[/]{line}" for name, line in found.items())
        parts.append("\n".join(("Decompositions (--method):", *names)))
    if verb == "export":
        formats = (f"  [bold]{name}[/]: {line}" for name, line in targets().items())
        parts.append("\n".join(("Formats (--to):", *formats)))
    hidden = [each for each in settings(verb).values() if not each.flag and "." in each.path]
    if hidden:
        keys = (f"  [bold]{each.path}[/]: {each.help_for(verb)}" for each in hidden)
        parts.append("\n".join(("Keys without a flag, for --set and recipe files:", *keys)))
    return "\n\n".join((*parts, KEYS))
