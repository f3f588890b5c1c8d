"""The command `tlm run`: a recipe of one verb, stages one after another, or points of a matrix."""

import json
from pathlib import Path
from typing import Any

from tlmtool.cli.explaining import explained
from tlmtool.cli.performing import perform
from tlmtool.cli.terminal import console, show, told
from tlmtool.failure import Failure, Usage, check_environment


def run_file(verb: str, given: dict[str, Any]) -> None:
    """Runs what a file says, prints the reports, and checks them."""
    verbose, quiet = bool(given["verbose"]), bool(given["quiet"])
    with told(verbose, quiet):
        check_environment()
        from tlmtool.recipe.building import build
        from tlmtool.recipe.points import sweep_of
        from tlmtool.recipe.stages import opened, stages_of

        if given["check"] and given["dry_run"]:
            raise Usage("--check and --dry-run are two questions: give one of them")
        file, sets, jobs = opened(given["file"]), given["sets"] or (), _jobs(given["jobs"])
        data = given["data"] or ()
        if not file.matrix.values and (given["cluster"] or jobs not in (None, 1)):
            flag = "--cluster" if given["cluster"] else "--jobs"
            raise Usage(f"{flag} is for the points of a matrix, and {file.where} has no matrix")
        out = Path(given["out"] or file.out or f"out/{Path(given['file']).stem}")
        stages: list[tuple[str, Any]] = []
        if file.matrix.values:  # before the slow imports
            found = sweep_of(file, out, sets, data, given["yes"] or given["check"])
            stages = [(point.name, stage) for point in found.points for stage in point.stages]
        elif not file.single:
            stages = [("", stage) for stage in stages_of(given["file"], out, sets, data)]
        elif given["check"]:
            build(next(iter(file.bodies)), {}, sets, given["file"], data)
    if given["check"]:
        return _say(given, stages, len(found.points) if file.matrix.values else 1)
    if given["dry_run"] and stages:
        return _predict(stages, file.single, given, bool(file.matrix.values))
    if file.matrix.values:
        return _run_points(found, jobs, dict(file.cluster), given)
    if file.single:
        return _run_one(next(iter(file.bodies)), given)
    return _run_stages([stage for _, stage in stages], given)


def _jobs(text: str | None) -> int | None:
    if text is not None and not (text.isdecimal() and text.isascii() and 0 < int(text) < 1000):
        raise Usage(f"--jobs is {text}: it should be a number of processes, such as 2")
    return int(text) if text else None


def _say(given: dict[str, Any], stages: list[tuple[str, Any]], points: int) -> None:
    """Tells that a file is valid."""
    count = {"points": points, "stages": len(stages) or 1}
    if given["as_json"]:
        print(json.dumps({"file": given["file"], "valid": True, **count}))
    else:
        print(f"{given['file']} is valid: points {points:,}, stages {count['stages']:,}")


def _predict(
    stages: list[tuple[str, Any]], single: bool, given: dict[str, Any], points: bool
) -> None:
    """Prints what the stages will cost. `single`: a point is one stage, and has its name; `points`:
    they are those of a matrix. Raises what the run would end with where one is refused."""
    with told(bool(given["verbose"]), bool(given["quiet"])):
        from tlmtool.commands.predicting import predict

        names = [point if single else f"{point}/{s.name}".lstrip("/") for point, s in stages]
        report = predict(zip(names, (stage for _, stage in stages), strict=True), points)
    show(report, bool(given["as_json"]), bool(given["verbose"]))
    if report.failed:
        raise report.failed


def _run_one(verb: str, given: dict[str, Any]) -> None:
    """Runs a recipe of one command, as `tlm VERB --recipe FILE` does."""
    flags = {name: given[name] for name in ("sets", "as_json", "quiet", "verbose")}
    kept = {n: given[n] for n in ("out", "resume", "overwrite", "dry_run") if given[n]}
    with told(bool(given["verbose"]), bool(given["quiet"])):
        from tlmtool.recipe.schema import settings

        known = {setting.flag for setting in settings(verb).values()}
        if wrong := [n for name in kept if (n := name.replace("_", "-")) not in known]:
            raise Usage(f"--{wrong[0]} is not for {verb}, the one command of {given['file']}")
    flags |= kept
    perform(verb, flags | {"recipe": given["file"], "folders": given["data"]})


def _run_points(found: Any, jobs: int | None, asked: dict[str, Any], given: dict[str, Any]) -> None:
    """Runs the points of a file. `asked`: what it asks of a cluster."""
    verbose, quiet = bool(given["verbose"]), bool(given["quiet"])
    with told(verbose, quiet):
        from tlmtool.commands.cluster import Cluster
        from tlmtool.commands.sweeping import LOGS, sweep
        from tlmtool.commands.workers import Alone, Processes, Worker

        worker: Worker = Alone(explained)
        if given["cluster"]:
            worker = Cluster(explained, given["cluster"], asked, jobs, found.out / LOGS)
        elif jobs and jobs > 1:
            worker = Processes(explained, jobs, found.out / LOGS)
        report = sweep(found, given["resume"], given["overwrite"], worker)
    show(report, bool(given["as_json"]), verbose)
    if report.failed:
        raise report.failed


def _run_stages(stages: list[Any], given: dict[str, Any]) -> None:
    """Runs the stages of a file, and prints and checks the report of each as it ends."""
    verbose, quiet, as_json = (bool(given[name]) for name in ("verbose", "quiet", "as_json"))
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
    whole = pipeline.summary(done)
    with told(verbose, quiet):
        pipeline.finish(stages[0].out.parent, whole, {str(s.out): each for s, each in done})
    show(whole, as_json, verbose)
