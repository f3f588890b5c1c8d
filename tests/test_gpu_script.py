"""benchmarks/gpu.sh tells what became of each part: its figures, a failure, or no time left."""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """benchmarks/gpu.py, imported as it is run."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    import gpu

    yield gpu
    for name in set(sys.modules) - before:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def part(script):
    def made(program: str, limit: float = 60, name: str = "one"):
        from gpu_parts import Part

        return Part(name, [sys.executable, "-c", program], limit, lambda out, _: json.loads(out))

    return made


def test_a_part_ends_in_figures_or_in_the_reason(script, part, tmp_path):
    done = script.performed(part("print('{\"ms\": 3}')"), tmp_path, 60)
    assert done["outcome"] == "done" and done["result"] == {"ms": 3} and done["seconds"] > 0
    failed = script.performed(part("raise SystemExit('no such GPU')"), tmp_path, 60)
    assert failed["outcome"] == "failed with exit code 1" and "no such GPU" in failed["said"]
    empty = script.performed(part("print('nothing')"), tmp_path, 60)
    assert empty["outcome"].startswith("left no figures") and "nothing" in empty["said"]
    late = script.performed(part("import time; time.sleep(600)", limit=0.2), tmp_path, 60)
    assert late["outcome"] == "out of time" and late["seconds"] < 60 and "result" not in late
    over = script.performed(part("print(1)"), tmp_path, -1)
    assert over["outcome"].startswith("not run") and over["seconds"] == 0


def test_what_a_late_part_started_is_ended(script, part, tmp_path):
    """Its file grows no more."""
    file = tmp_path / "grows"
    child = f"import time; f = open({str(file)!r}, 'a', 1)\nwhile True: f.write('x\\n')"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    while not file.exists():
        assert script.performed(part(program, limit=2), tmp_path, 60)["outcome"] == "out of time"
    size = file.stat().st_size
    assert script.performed(part("print(1)"), tmp_path, 60)["outcome"] == "done"
    assert file.stat().st_size == size


def test_the_file_names_every_part_also_after_one_failed(script, part, monkeypatch, tmp_path):
    some = [part("print(1)"), part("raise SystemExit(2)", name="two"), part("print(3)", name="x")]
    monkeypatch.setattr(script, "parts", lambda *_: some)
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--quick", "--out", str(out)])
    assert script.main() == 1
    kept = json.loads(out.read_text())
    assert kept["complete"] and kept["quick"] and kept["machine"]["device"]
    outcomes = {each["part"]: each["outcome"] for each in kept["parts"]}
    assert outcomes == {"one": "done", "two": "failed with exit code 2", "x": "done"}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("folder", [None, Path("smollm2")])
def test_the_parts_are_what_a_gpu_is_for(script, quick, folder):
    with tempfile.TemporaryDirectory() as scratch:
        found = script.parts("cuda", quick, Path(scratch), folder)
    assert len({each.name for each in found}) == len(found) == 6
    assert all(0 < each.limit <= script.ALL < 480 for each in found)
    assert all("cuda" in each.command for each in found[1:])
    assert "gpu" in found[0].command  # the tests are told by TLM_TEST_DEVICE
    for word in ("gpu_models.py", "attention", "overparam", "decode"):
        assert any(word in " ".join(each.command) for each in found), word


def test_pytest_is_counted(script):
    from gpu_parts import counts

    assert counts("..s\n9 passed, 2 skipped, 1 failed in 3.1s\n", Path()) == {
        "passed": 9,
        "skipped": 2,
        "failed": 1,
    }
