"""The points of a sweep as jobs of a cluster, which submitit submits: `tlm run --cluster NAME`."""

import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tlmtool.commands.workers import Explain, Failed, Work
from tlmtool.failure import Failure, MissingDependency, Usage, first_line

PAUSE = 1.0  # seconds between two looks at the jobs; a smaller value asks the cluster more often
DEFAULTS = {"name": "tlm", "timeout_min": 24 * 60}  # submitit alone would end jobs after 5 minutes


@dataclass
class Cluster:
    """All points that wait are submitted as one array of jobs.

    `kind`: what submitit calls the cluster, such as slurm or local; `parameters`: those of its
    `update_parameters`; `jobs`: how many may run at a time, None for no bound; `folder`: on a file
    system that all machines share, for what submitit writes."""

    explain: Explain
    kind: str
    parameters: dict[str, Any]
    jobs: int | None
    folder: Path
    queue: list[tuple[str, Work]] = field(default_factory=list)
    running: dict[str, Any] = field(default_factory=dict)

    executor: Any = None

    def __post_init__(self) -> None:
        with tempfile.TemporaryDirectory() as place:  # an executor makes its folder
            self._made(Path(place))

    def _made(self, folder: Path) -> Any:
        """What submits jobs. Raises MissingDependency, and Usage for what it does not take."""
        try:
            import submitit
        except ImportError:
            raise MissingDependency(
                "--cluster needs the cluster extra: pip install 'tlmtool[cluster]'"
            ) from None
        given = DEFAULTS | ({"slurm_array_parallelism": self.jobs} if self.jobs else {})
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=self.kind)
            executor.update_parameters(**given | self.parameters)
        except (NameError, TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise Usage(f"--cluster {self.kind}: {first_line(error)}") from None
        return executor

    def add(self, name: str, work: Work) -> None:
        self.queue.append((name, work))

    def next(self) -> tuple[str, Failed]:
        if self.queue:
            self.executor = self.executor or self._made(self.folder)
            try:
                with self.executor.batch():
                    submit = self.executor.submit
                    jobs = [submit(perform_job, w, self.explain) for _, w in self.queue]
            except (RuntimeError, OSError) as error:  # such as an account that the cluster refuses
                raise Failure(f"--cluster {self.kind} took no jobs: {first_line(error)}") from None
            self.running |= dict(zip((name for name, _ in self.queue), jobs, strict=True))
            self.queue.clear()
        while not (ended := [name for name, job in self.running.items() if job.done()]):
            time.sleep(PAUSE)
        return ended[0], self._failed(self.running.pop(ended[0]))

    def _failed(self, job: Any) -> Failed:
        try:
            return job.result()
        except Exception as error:
            told = f"job {job.job_id} ended without a result ({first_line(error)}); see "
            return f"{told}{job.paths.stderr}", Failure.code

    def end(self) -> None:
        for job in self.running.values():
            job.cancel(check=False)


def perform_job(work: Work, explain: Explain) -> Failed:
    """The whole of a job: why its point failed."""
    try:
        work()
    except BaseException as error:
        traceback.print_exc()
        return explain(error)
    return None
