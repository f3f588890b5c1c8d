"""No part mixes tensors of the CPU with those of a GPU; found without one, by pretended tensors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

PRETENDED = Path(__file__).with_name("pretended.py")
PARTS = ("kernel", "linear", "re-load", "model", "over-parameterized", "compress", "wrong")


@pytest.fixture(scope="module")
def found() -> dict[str, str | None]:
    """{check: error or None}, from one process for all."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot pretend to have a device")
    done = subprocess.run([sys.executable, PRETENDED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("part", PARTS)
def test_all_tensors_stay_on_the_device(part, found):
    checks = {name: error for name, error in found.items() if name.partition(" ")[0] == part}
    assert checks
    assert {name: error for name, error in checks.items() if error} == {}


def test_every_check_belongs_to_a_part(found):
    assert {name.partition(" ")[0] for name in found} == set(PARTS)
