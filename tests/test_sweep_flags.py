"""`tlm run` with --check, --dry-run, --jobs and --cluster, and stages that a launcher starts."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import compressions
import pytest
from trees import made

from tlmtool.cli import run
from tlmtool.cli.explaining import explained
from tlmtool.commands.cluster import Cluster
from tlmtool.commands.launching import command_of, launched
from tlmtool.commands.workers import attempted
from tlmtool.failure import Failure, Stopped
from tlmtool.recipe.building import build
from tlmtool.recipe.stages import stages_of

RANK = {"rank": 2, "sites": "*.0.attention.self.query"}
inputs = compressions.inputs  # a fixture


def written(tmp_path: Path, tree: dict) -> list[str]:
    (tmp_path / "f.yaml").write_text(json.dumps(tree))
    return ["run", str(tmp_path / "f.yaml"), "--out", str(tmp_path / "out"), "-q"]


def ranks(inputs: dict[str, str], *several: int) -> dict:
    """A file of one verb with a point for each rank."""
    tree = {"verb": "compress", "model": inputs["model"], "compression": RANK}
    return tree | {"calibration": {"text": "none"}, "matrix": {"compression.rank": [*several]}}


def test_a_check_reads_no_data_and_no_model(tmp_path, capsys):
    tune = {"name": "tune", "verb": "finetune", "model": "nowhere"}
    tune |= {"training": {"task": "mlm", "data": "${PTB}"}}
    tree = {"stages": [tune], "matrix": {"tune.seed": [*range(300)]}}
    words = written(tmp_path, tree)
    assert run([*words, "--check"]) == 0
    assert "points 300, stages 300" in capsys.readouterr().out
    assert run([*words, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == 300
    assert not (tmp_path / "out").exists()
    tree["matrix"]["tune.training.steps"] = [0]
    assert run([*written(tmp_path, tree), "--check"]) == 2
    assert "steps" in capsys.readouterr().err
    assert run([*written(tmp_path, tune | {"name": None}), "--check"]) == 2


def test_a_check_of_a_recipe_of_one_verb(tmp_path, capsys):
    recipe = {"verb": "compress", "model": "nowhere", "compression": {"rank": 2}}
    assert run([*written(tmp_path, recipe), "--check"]) == 0
    assert "is valid" in capsys.readouterr().out
    recipe["compression"]["rank"] = 0
    assert run([*written(tmp_path, recipe), "--check"]) == 2
    assert run([*written(tmp_path, recipe), "--check", "--dry-run"]) == 2


def test_a_dry_run_ends_as_the_run_would(inputs, tmp_path, capsys):
    words = written(tmp_path, ranks(inputs, 2, 900))
    assert run([*words, "--dry-run"]) == run(words) == 1
    shown = capsys.readouterr()
    assert "1 of 2 stages will be refused" in shown.err and "rank 900 is above" in shown.out
    stages = [{"name": str(rank), **ranks(inputs, rank)} for rank in (900, 2)]
    for each in stages:
        each["compression"] = RANK | {"rank": each.pop("matrix")["compression.rank"][0]}
    words = [*written(tmp_path, {"stages": stages}), "--set", f"2.model={inputs['model']}"]
    words[3] += "-of-stages"
    assert run([*words, "--dry-run"]) == run(words) == 2
    assert capsys.readouterr().err.count("rank 900 is above") == 2


def test_a_dry_run_tells_what_each_stage_costs_and_what_is_not_known(inputs, tmp_path, capsys):
    stages = [
        {"name": "small", **{k: v for k, v in ranks(inputs, 2).items() if k != "matrix"}},
        {"name": "tune", "verb": "finetune"}
        | {"training": {"task": "mlm", "data": inputs["text"], "steps": 2}},
        {"name": "dense", "verb": "merge", "model": "@small"},
    ]
    tree = {"stages": stages, "matrix": {"small.compression.rank": [2, 4]}}
    assert run([*written(tmp_path, tree), "--dry-run", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)["costs"]}
    assert len(found) == 6 and not (tmp_path / "out").exists()
    assert found["rank=4/small"]["parameters"] > found["rank=2/small"]["parameters"] > 0
    assert found["rank=2/small"]["seconds"] > 0
    assert "small, which must be made first" in found["rank=2/tune"]["unknown"]
    assert "predicts no cost" in found["rank=4/dense"]["unknown"]


def test_processes_make_the_same_and_a_failure_is_told(inputs, tmp_path, capsys):
    words, out = written(tmp_path, ranks(inputs, 2)), tmp_path / "out"
    assert run(words) == 0
    alone = made(out / "rank=2")
    out.rename(tmp_path / "alone")
    words = written(tmp_path, ranks(inputs, 2, 900))
    assert run([*words, "--jobs", "2"]) == 1
    assert "1 of 2 points failed: rank=900" in capsys.readouterr().err
    assert made(out / "rank=2") == alone
    assert [each.name for each in (out / "logs").iterdir()] == ["rank=900.log"]
    assert "rank 900 is above" in (out / "logs" / "rank=900.log").read_text()
    words = written(tmp_path, ranks(inputs, 2))
    assert run([*words, "--resume", "--jobs", "2"]) == 0, "what is done needs no process"


def test_a_panic_of_rust_fails_one_point_and_a_signal_ends_all():
    class PanicException(BaseException):
        pass

    def ends(error: BaseException):
        def work() -> None:
            raise error

        return attempted(work, explained)

    assert "index out of range" in ends(PanicException("index out of range"))[0]
    with pytest.raises(Stopped):
        ends(Stopped(15))
    with pytest.raises(KeyboardInterrupt):
        ends(KeyboardInterrupt())


@pytest.mark.parametrize("jobs", ["0", "two", "-1", "1000"])
def test_a_wrong_number_of_jobs_is_told(jobs, inputs, tmp_path, capsys):
    assert run([*written(tmp_path, ranks(inputs, 2)), "--jobs", jobs]) == 2
    assert "--jobs is" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--cluster", "slurm"], ["--jobs", "2"]])
def test_what_is_for_points_needs_a_matrix(more, inputs, tmp_path, capsys):
    assert run([*written(tmp_path, tuned(inputs, None)), *more]) == 2
    assert f"{more[0]} is for the points of a matrix" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_points_are_jobs_of_a_cluster(inputs, tmp_path, capsys):
    pytest.importorskip("submitit")
    words, out = written(tmp_path, ranks(inputs, 2, 900)), tmp_path / "out"
    assert run([*words, "--cluster", "local"]) == 1
    assert "1 of 2 points failed: rank=900" in capsys.readouterr().err
    assert (out / "rank=2" / "report.json").exists() and [*(out / "logs").iterdir()]
    tree = ranks(inputs, 2) | {"cluster": {"partition_of_none": 1}}
    assert run([*written(tmp_path, tree), "--resume", "--cluster", "local"]) == 2
    assert "--cluster local: " in capsys.readouterr().err


@pytest.mark.parametrize(("jobs", "bound"), [(None, None), (1, 1), (8, 8)])
def test_jobs_bounds_the_jobs_of_a_cluster(jobs, bound, tmp_path, monkeypatch):
    found: dict[str, object] = {}
    executor = SimpleNamespace(update_parameters=lambda **given: found.update(given))
    module = SimpleNamespace(AutoExecutor=lambda folder, cluster: executor)
    monkeypatch.setitem(sys.modules, "submitit", module)
    Cluster(explained, "slurm", {"timeout_min": 5}, jobs, tmp_path)
    assert found.get("slurm_array_parallelism") == bound and found["timeout_min"] == 5


def test_what_refuses_a_job_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("sbatch: error: invalid account\nsee the log")

    executor = SimpleNamespace(update_parameters=lambda **_: None, batch=nullcontext, submit=refuse)
    module = SimpleNamespace(AutoExecutor=lambda folder, cluster: executor)
    monkeypatch.setitem(sys.modules, "submitit", module)
    cluster = Cluster(explained, "slurm", {}, None, tmp_path)
    cluster.add("seed=1", print)
    with pytest.raises(Failure, match="--cluster slurm took no jobs: sbatch: error: invalid"):
        cluster.next()


def test_without_submitit_the_extra_is_named(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert run([*written(tmp_path, ranks(inputs, 2)), "--cluster", "slurm"]) == 5
    assert "tlmtool[cluster]" in capsys.readouterr().err


def tuned(inputs: dict[str, str], launch: object) -> dict:
    """A file whose second stage is started in several processes."""
    small = {k: v for k, v in ranks(inputs, 2).items() if k != "matrix"}
    tune = {"task": "mlm", "data": inputs["text"], "steps": 2, "batch": 4}
    stage = {"name": "tune", "verb": "finetune", "training": tune, "launch": launch}
    return {"stages": [{"name": "small"} | small, stage]}


def test_a_stage_is_started_by_torchrun_and_checked_as_any_other(inputs, tmp_path, capfd):
    tree = tuned(inputs, "torchrun --nproc_per_node 2")
    tree["stages"][1]["output"] = {"fail_if": "training.processes>1"}
    assert run([*written(tmp_path, tree), "--json"]) == 3
    told = capfd.readouterr()
    assert json.loads(told.out)["stages"][1]["training"]["processes"] == 2
    assert "tlm: check failed: training.processes is 2" in told.err


def test_the_sentence_of_a_launched_stage_that_fails_is_told(tmp_path, monkeypatch):
    ending = "import sys; sys.exit('tlm: no such data\\nthe launcher says more')"
    monkeypatch.setattr(
        "tlmtool.commands.launching.command_of", lambda *_: [sys.executable, "-c", ending]
    )
    with pytest.raises(Failure, match=r"torchrun --nnodes 2 ended with exit code 1: no such data$"):
        launched(build("finetune"), ("torchrun", "--nnodes", "2"), tmp_path)


def test_the_words_of_a_launcher():
    words = ["finetune", "--recipe", "r.yaml"]
    found = command_of(("torchrun", "--nnodes", "2"), words)
    assert found[1:] == [
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "-m",
        "--",
        "tlmtool",
        *words,
    ]
    found = command_of(("accelerate", "launch", "--use_fsdp"), words)
    assert found[2:] == [
        "accelerate.commands.accelerate_cli",
        "launch",
        "--use_fsdp",
        "-m",
        "tlmtool",
        *words,
    ]


@pytest.mark.parametrize("launch", ["mpirun -n 2", "", "accelerate config", 3, "torchrun 'a"])
def test_a_wrong_launcher_is_one_sentence(launch, inputs, tmp_path, capsys):
    assert run(written(tmp_path, tuned(inputs, launch))) == 2
    assert "launch in stage tune" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_training_runs_in_several_processes(inputs, tmp_path, capsys):
    tree = tuned(inputs, "torchrun")
    tree["stages"][0]["launch"] = "torchrun"
    assert run(written(tmp_path, tree)) == 2
    assert "compress runs in one process" in capsys.readouterr().err


def test_a_launcher_is_no_part_of_what_makes_a_result(inputs, tmp_path):
    file = Path(written(tmp_path, tuned(inputs, ["torchrun"]))[1])
    (_, stage) = stages_of(file, tmp_path / "out")
    assert stage.launch == ("torchrun",) and "launch" not in vars(stage.recipe)
