"""The points of a matrix, each once, with what they found side by side: `tlm run FILE`."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tlmtool.commands.notes import REPORT, Place, done, kept_notes, mark_of
from tlmtool.commands.pipeline import (
    check_folder,
    check_places,
    check_replaced,
    check_report,
    clear,
    finish,
    prepared,
    run_at,
    summary,
)
from tlmtool.commands.workers import Failed, Worker, attempted
from tlmtool.data.fingerprints import Known
from tlmtool.failure import CheckFailed, Failure, Usage, check_alone, noting
from tlmtool.files.claims import claimed, settle
from tlmtool.files.kept import has_keys
from tlmtool.files.writing import write_whole
from tlmtool.recipe.points import Point, Sweep
from tlmtool.recipe.stages import Stage
from tlmtool.report.kept import read_report
from tlmtool.report.parts.costs import FileBytes, Parameters
from tlmtool.report.parts.ending import Ending
from tlmtool.report.parts.points import Point as Told
from tlmtool.report.parts.points import Points
from tlmtool.report.progress import log
from tlmtool.report.report import Report

LIST = "sweep.json"  # in the folder of a sweep: its points and their values
NOTES = "points"  # the folder in it with what made each point
LOGS = "logs"  # the folder in it with what the processes of failed points have printed
FORMAT = 1  # version of LIST

Done = list[tuple[Stage, Report]]


def sweep(found: Sweep, resume: bool, overwrite: bool, worker: Worker) -> Report:
    """Let a worker perform every point. One that fails does not keep the others from being done,
    but for those that read it.

    With `resume`, points that are done are kept; with `overwrite`, each is replaced when it ends.
    Raises Usage for a folder that is taken, or that another recipe made.
    """
    failed = dict[str, tuple[str, int]]()
    with _claimed(found, resume, overwrite):
        count, every = 0, len(found.points)
        with noting(lambda: f"{count} of {every} points are done", over=True):
            for name, why in _outcomes(found, resume, overwrite, worker):
                if why is not None:
                    failed[name] = why
                    log.warning("%s failed: %s", name, why[0])
                count += why is None
                if why is None:
                    _forget(found.out / LOGS / f"{name}.log")
        return _ended(found, failed)


def _forget(log: Path) -> None:
    """Remove what a point that is now done has printed when it failed."""
    with suppress(OSError):
        log.unlink(missing_ok=True)
        log.parent.rmdir()


def _outcomes(
    found: Sweep, resume: bool, overwrite: bool, worker: Worker
) -> Iterator[tuple[str, Failed]]:
    """(name, why it failed) of each point, as they end."""
    waiting, good, bad = list(found.points), set[str](), dict[str, int]()  # bad: their exit codes
    running, known = set[str](), Known()
    try:
        while waiting or running:
            ended = list[tuple[str, Failed]]()
            for point in [*waiting]:
                lacks = sorted(point.after & bad.keys())
                if not lacks and not point.after <= good:
                    continue
                waiting.remove(point)
                place = _place(found, point)
                work = Work(place, point.stages, found.single, resume, overwrite, known)
                if lacks:
                    why = f"not run, because {lacks[0]} has failed"
                    ended.append((point.name, (why, bad[lacks[0]])))
                elif _there(place, point) and not overwrite:  # no worker is needed to see it
                    ended.append((point.name, attempted(work, worker.explain)))
                else:
                    worker.add(point.name, work)
                    running.add(point.name)
            if not ended:
                ended = [worker.next()]
            for name, why in ended:
                running.discard(name)
                if why:
                    bad[name] = why[1]
                else:
                    good.add(name)
                log.info("point %d of %d: %s", len(good) + len(bad), len(found.points), name)
                yield name, why
    finally:
        worker.end()


def _there(place: Place, point: Point) -> bool:
    notes = kept_notes(place.file, True) or {}
    return all(done(stage, notes.get(stage.name)) for stage in point.stages)


@dataclass(frozen=True)
class Work:
    """Performs one point, in whatever process it is called."""

    place: Place
    stages: tuple[Stage, ...]
    single: bool
    resume: bool
    overwrite: bool
    known: Known

    def __call__(self) -> None:
        """Raises what a stage raises, and CheckFailed."""
        made = Done()
        with claimed(self.place.file):
            stages = [*self.stages]
            for stage, report in run_at(
                self.place, stages, self.resume, self.overwrite, self.known
            ):
                made.append((stage, report))
                if test := stage.recipe.output.fail_if:
                    report.check(test)
            if not self.single:
                file = self.stages[0].out.parent / REPORT
                settle(file)
                write_whole(file, summary(made).to_json() + "\n")


@contextmanager
def _claimed(found: Sweep, resume: bool, overwrite: bool) -> Iterator[None]:
    """The folder of a sweep, checked and claimed, with its list of points."""
    check_alone("a sweep")
    every = [stage for point in found.points for stage in point.stages]
    check_places(every, _place(found, found.points[0]))
    with claimed(found.out / LIST):
        check_folder(found.out, LIST, "sweep", resume, overwrite)
        if os.path.lexists(found.out / LIST) and not has_keys(found.out / LIST, "format", "points"):
            raise Usage(f"{found.out / LIST} is no list of a sweep's points: give another --out")
        if not found.single:
            for point in found.points:
                check_report(found.out / point.name)
        check_replaced(every, overwrite)  # a refusal changes nothing
        found.out.mkdir(parents=True, exist_ok=True)
        points = {point.name: point.values for point in found.points}
        told = json.dumps({"format": FORMAT, "points": points}, indent=1)
        write_whole(found.out / LIST, told + "\n")
        for point in found.points:  # whatever must not be replaced is told before any work
            place = _place(found, point)
            with claimed(place.file):  # a job of an earlier run may still be at work on it
                prepared(place, [*point.stages], overwrite)
        if overwrite:
            clear(found.out)
        yield


def _place(found: Sweep, point: Point) -> Place:
    names = frozenset(each.name for each in found.points)
    return Place(found.out, names, found.out / NOTES / f"{point.name}.json")


def results_of(found: Sweep, point: Point) -> Done:
    """The stages of a point that are done, with their reports."""
    notes = kept_notes(_place(found, point).file, True) or {}
    return [
        (stage, read_report(stage.out / REPORT, stage.recipe.verb))
        for stage in point.stages
        if done(stage, notes.get(stage.name))
    ]


def _ended(found: Sweep, failed: dict[str, tuple[str, int]]) -> Report:
    """The report of all points, written with their page."""
    made = {point.name: results_of(found, point) for point in found.points}
    points = [_told(found.out, p, made[p.name], failed.get(p.name)) for p in found.points]
    every = Points(points=tuple(points))
    report = Report("run", [every])
    if failed:
        names = ", ".join([*failed][:5]) + (", ..." if len(failed) > 5 else "")
        several = f"{len(failed)} of {len(found.points)} points"
        codes = {code for _, code in failed.values()}
        again = "--resume tries them again"
        if codes <= {Usage.code, CheckFailed.code}:
            again = "change what they were refused for, and --resume keeps the others"
        report.failed = Failure(f"{several} failed: {names}; {again}")
        if codes == {CheckFailed.code}:
            told = f"{several} failed a check, or read one that did: {names}"
            report.failed = CheckFailed(told)
    results = {str(stage.out): each for point in made.values() for stage, each in point}
    failures = [f"failed: {each}" for each in every.failures()]
    finish(found.out, report, results, failures)
    return report


def _has_report(stage: Stage) -> bool:
    return mark_of(stage) is not None


def _told(out: Path, point: Point, made: Iterable[tuple[Stage, Report]], failed: Failed) -> Told:
    """A point as its report has it: the last size and the last score of its stages."""
    reports = [each for _, each in made]
    sizes = [part for each in reports if (part := each.part(Parameters))]
    files = [part for each in reports if (part := each.part(FileBytes))]
    scores = [score for each in reports for part in each.parts if (score := part.headline())]
    endings = [part for each in reports if (part := each.part(Ending))]
    metric, score = scores[-1] if scores else (None, None)
    return Told(
        name=point.name,
        values=point.values,
        out=str(out / point.name),
        failed=failed and failed[0],
        earlier=True if failed and len(reports) < sum(map(_has_report, point.stages)) else None,
        parameters=sizes[-1].after if sizes else None,
        bytes=files[-1].after if files else None,
        metric=metric,
        score=score,
        seconds=sum(sum(each.seconds.values()) for each in endings) if endings else None,
    )
