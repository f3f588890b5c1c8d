"""The command `tlm run`: each stage's report as it ends, then one of them all."""

from pathlib import Path
from typing import Any

from tlmtool.cli.performing import perform
from tlmtool.cli.terminal import console, show, told
from tlmtool.failure import Failure, check_environment
from tlmtool.recipe.verbs import VERBS


def _run_one(verb: str, given: dict[str, Any]) -> None:
    """Runs a recipe of one command, as `tlm VERB --recipe FILE` does."""
    flags = {name: given[name] for name in ("sets", "as_json", "quiet", "verbose")}
    flags |= {name: given[name] for name in ("out", "resume", "overwrite") if given[name]}
    perform(verb, flags | {"recipe": given["file"], "folders": given["data"]})


def run_stages(verb: str, given: dict[str, Any]) -> None:
    """Runs the stages of a file, prints their reports, and checks them."""
    verbose, quiet, as_json = (bool(given[name]) for name in ("verbose", "quiet", "as_json"))
    file: str = given["file"]
    with told(verbose, quiet):
        check_environment()
        from tlmtool.recipe.sources import read
        from tlmtool.recipe.stages import stages_of

        single = read(file)
        if "stages" in single or single.get("verb") not in VERBS:
            single = {}
            out = Path(given["out"] or f"out/{Path(file).stem}")
            sets, data = given["sets"] or (), given["data"] or ()
            stages = stages_of(file, out, sets, data)  # before the slow imports
    if single:
        return _run_one(single["verb"], given)
    with told(verbose, quiet):
        from tlmtool.commands import pipeline

        reports = pipeline.run(stages, given["resume"], given["overwrite"])
    done: list[Any] = []
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
