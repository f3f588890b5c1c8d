"""The command `tlm run`: each stage's report as it ends, then one of them all."""

from pathlib import Path
from typing import Any

from tlmtool.cli.terminal import console, show, told
from tlmtool.failure import Failure, check_environment


def run_stages(verb: str, given: dict[str, Any]) -> None:
    """Runs the stages of a file, prints their reports, and checks them."""
    verbose, quiet, as_json = (bool(given[name]) for name in ("verbose", "quiet", "as_json"))
    file: str = given["file"]
    with told(verbose, quiet):
        check_environment()
        from tlmtool.commands import pipeline

        out = Path(given["out"] or f"out/{Path(file).stem}")
        stages = pipeline.stages_of(file, out, given["sets"] or ())
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
