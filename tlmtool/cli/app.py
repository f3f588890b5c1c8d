"""The command line: flags -> Recipe -> command -> Report, and nothing else.

Heavy imports happen inside the command, so that `--help` needs typer and rich only.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from tlmtool.cli.explaining import explained
from tlmtool.cli.flags import command
from tlmtool.cli.stopping import stopping
from tlmtool.cli.terminal import console, flushed, open_streams, show, told
from tlmtool.failure import Failure, Stopped, check_environment, speaks
from tlmtool.recipe.schema import decompositions
from tlmtool.report.printable import printable

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
        "Count parameters by role, FLOPs, bytes, and measure memory and latency; or those of "
        "attention kernels alone as the length grows.",
        "tlm profile minilm --against out/m8 --seq-len 128,512",
    ),
    "evaluate": (
        "Score a model: language-model loss, similarity, feature error, or a task of finetune.",
        "tlm evaluate out/m8 --task similarity --data pairs.csv --baseline minilm",
    ),
}
LONGEST = 1200  # letters of a sentence on stderr
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
    open_streams()
    if not os.environ.get("TERMINAL_WIDTH", "1").isdecimal():
        del os.environ["TERMINAL_WIDTH"]  # which typer would take for a number
    if "NO_COLOR" in os.environ:
        import typer.rich_utils

        typer.rich_utils.COLOR_SYSTEM = None  # the help: no bold either
    try:
        with stopping():
            code = _run(args)
    except (Stopped, KeyboardInterrupt) as late:  # while a failure was told
        code = _fail(*explained(late))
    written = [flushed(stream) for stream in (sys.stdout, sys.stderr)]
    return code if written[0] else code or Failure.code


def _run(args: list[str]) -> int:
    try:
        code = app(args=args or ["--help"], prog_name="tlm", standalone_mode=False) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        return Failure.code
    except SystemExit as ended:  # typer, where the reader has
        return ended.code if isinstance(ended.code, int) else Failure.code
    except BaseException as error:
        if isinstance(error, OSError) and not isinstance(error, Failure):  # work raises Failures
            return _fail(f"the output cannot be printed: {error.strerror or error}", Failure.code)
        return _fail(*explained(error))
    return _fail(*explained(KeyboardInterrupt())) if code == 130 else code


def _fail(sentence: str, code: int) -> int:
    told = printable(" ".join(sentence.split()))
    if len(told) > LONGEST:  # of a name or value that is very long
        told = f"{told[: LONGEST // 2]} ... {told[-LONGEST // 2 :]}"
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        print(f"tlm: {told}", file=sys.stderr, flush=True)
    return code


# ---- from a parsed command line to a printed report


def perform(verb: str, given: dict[str, Any]) -> None:
    """Builds the recipe, runs the command of `tlmtool.commands`, prints its report, checks it."""
    control = {name: given.pop(name) for name in ("recipe", "sets", "as_json", "quiet", "verbose")}
    verbose = bool(control["verbose"])
    flags = {name: value for name, value in given.items() if value is not False}
    with told(verbose, bool(control["quiet"])):
        talking = speaks()
        from tlmtool.commands.performing import perform as report_of
        from tlmtool.recipe import building as recipes

        recipe = recipes.build(verb, flags, control["sets"] or (), control["recipe"])
        report = report_of(recipe)
    if not talking:
        return  # of several processes one speaks
    show(report, bool(control["as_json"]), verbose)
    if recipe.output.fail_if:
        report.check(recipe.output.fail_if)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"tlm {version('tlmtool')}")
        except PackageNotFoundError:
            typer.echo("tlm (not installed)")
        raise typer.Exit


def _pipeline(
    file: Annotated[str, typer.Argument(metavar="FILE", help="YAML with a list of stages")],
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="folder of the stages' results (default out/FILE's name)"),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.KEY=VALUE", help="a key of a stage's recipe"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", metavar=" ", help="go on where a killed run was")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar=" ", help="replace earlier results")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", metavar=" ", help="print one JSON object")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", metavar=" ", help="no progress")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", metavar=" ", help="all rows, all logs")
    ] = False,
) -> None:
    """Stages one after another, each a recipe of its own, each on what the one before it wrote."""
    with told(verbose, quiet):
        check_environment()
        from tlmtool.commands import pipeline

        stages = pipeline.stages_of(file, Path(out or f"out/{Path(file).stem}"), sets or ())
        done, reports = [], pipeline.run(stages, resume, overwrite)
    for _ in stages:
        with told(verbose, quiet):
            done.append(next(reports))
        stage, report = done[-1]
        if not as_json:
            console().print(f"\nstage {stage.name}", style="bold")
            show(report, False, verbose)
        if test := stage.recipe.output.fail_if:
            try:
                report.check(test)
            except Failure:
                if as_json:
                    show(pipeline.summary(done), as_json, verbose)
                raise
    show(pipeline.summary(done), as_json, verbose)


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
app.command("run", epilog="Example: tlm run recipes/run-minilm-combined.yaml --out out/combined")(
    _pipeline
)
