"""`tlm doctor`: versions, devices, and what is missing, whatever the machine lacks."""

import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest

from tlmtool.cli import run
from tlmtool.commands import doctor

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "SIDE", 8)


def told(capsys) -> dict:
    assert run(["doctor", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_it_tells_versions_and_devices(capsys):
    found = told(capsys)
    assert {"python", "torch", "transformers", "safetensors"} <= {*found["versions"]}
    cpu = found["devices"][0]
    assert cpu["name"] == "cpu" and cpu["memory_bytes"] >= cpu["free_bytes"] > 0
    assert cpu["bfloat16_speed"] > 0
    assert found["problems"] == []
    assert {*found["models"]} == {"minilm", "smollm2", "gemma3-270m"}


def test_what_is_missing_is_named_with_its_command(capsys, monkeypatch):
    def version(name):
        if name in ("matplotlib", "torch"):
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "sacrebleu" else real(name)

    real = doctor.version
    monkeypatch.setattr(doctor, "version", version)
    found = told(capsys)
    missing = {each["name"]: each["missing"] for each in found["extras"] if each["missing"]}
    assert missing["plots"][0].startswith("matplotlib") and missing["translation"]
    assert found["versions"]["torch"] == "missing"
    assert any(each.startswith("torch>=") for each in found["problems"])
    assert run(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "MISSING matplotlib" in said and "pip install 'tlmtool[" in said


def test_a_broken_torch_is_a_problem_and_no_failure(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = told(capsys)
    assert any("torch does not work here" in each for each in found["problems"])
    assert "bfloat16_speed" not in found["devices"][0]


def test_each_extra_has_a_purpose():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {*project["optional-dependencies"]}
    assert extras - {*doctor.FOR_WORK_ON_TLM} == {*doctor.PURPOSES}
    assert requires("tlmtool")
