"""What this machine has and what is missing: `tlm doctor`."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from statistics import median
from typing import Any

import psutil
from packaging.requirements import Requirement

from tlmtool.failure import MissingDependency, first_line
from tlmtool.models.known import NAMES, minilm, parts_of
from tlmtool.models.network import unreachable
from tlmtool.models.unpacking import cache
from tlmtool.report.parts.doctor import Device, Doctor, Extra
from tlmtool.report.report import Report

SIDE, RUNS = 1024, 5  # of the timed product, and how often it runs; more are steadier and slower
PURPOSES = {  # {extra: what it is for}
    "demo": "the model minilm, to try tlm on",
    "data": "data sets of the Hugging Face Hub, and parquet files",
    "gguf": "GGUF files, and the models smollm2 and gemma3-270m",
    "peft": "LoRA adapters on compressed models",
    "bits": "weights in 8 or 4 bits: tlm quantize, --bits",
    "onnx": "tlm export --to onnx, and ONNX Runtime",
    "openvino": "tlm export --to openvino",
    "lm-eval": "tasks of lm-evaluation-harness in tlm evaluate",
    "cluster": "tlm run --cluster: the points of a sweep as jobs",
    "plots": "tlm profile --plot",
    "translation": "BLEU, the metric of the task translation",
    "trackers": "tlm finetune --tracker tensorboard",
}
FOR_WORK_ON_TLM = ("dev",)  # extras that users do not need


def doctor() -> Report:
    """The report on this machine. It raises nothing that can be told instead."""
    needed, extras = _requirements()
    problems = [f"{name} is missing or too old: pip install '{name}'" for name in _lacking(needed)]
    devices = [_processor()]
    try:
        import torch

        devices += _accelerators(torch)
        speed = _bfloat16_speed(torch, "cpu")
        devices[0] = Device(**{**vars(devices[0]), "bfloat16_speed": speed})
    except Exception as error:  # a torch that does not fit this machine fails in many ways
        problems.append(f"torch does not work here: {first_line(error)}")
    found = Doctor(
        versions=_versions(needed),
        devices=tuple(devices),
        extras=tuple(
            Extra(name=name, purpose=PURPOSES.get(name, ""), missing=tuple(_lacking(each)))
            for name, each in extras.items()
            if name not in FOR_WORK_ON_TLM
        ),
        models={name: _installed(name) for name in NAMES},
        places=_places(),
        problems=tuple(problems),
    )
    return Report("doctor", [found])


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """(what tlm needs, {extra: what it adds}), as the installed package says it."""
    needed: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    try:
        listed = requires("tlmtool") or []
    except PackageNotFoundError:
        listed = []
    for text in listed:
        each = Requirement(text)
        marker = str(each.marker or "")
        if "extra ==" in marker:
            name = marker.rpartition("extra ==")[2].split()[0].strip("'\"")
            extras.setdefault(name, []).append(each)
        elif each.marker is None or each.marker.evaluate():
            needed.append(each)
    return needed, extras


def _lacking(wanted: list[Requirement]) -> list[str]:
    """The packages that are missing, or of a version that does not do."""
    found = []
    for each in wanted:
        try:
            if not each.specifier.contains(version(each.name), prereleases=True):
                found.append(f"{each.name}{each.specifier}")
        except PackageNotFoundError:
            found.append(f"{each.name}{each.specifier}")
    return found


def _versions(needed: list[Requirement]) -> dict[str, str]:
    found = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    for name in ("tlmtool", *(each.name for each in needed)):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _processor() -> Device:
    """The processor, with the memory of the machine."""
    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Device(
        name="cpu",
        what=f"{cores} cores, {platform.machine()}",
        memory_bytes=int(memory.total),
        free_bytes=int(memory.available),
    )


def _accelerators(torch: Any) -> list[Device]:
    """The GPUs that torch can use."""
    found = []
    for place in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(place)
        found.append(
            Device(
                name=f"cuda:{place}",
                what=torch.cuda.get_device_name(place),
                memory_bytes=int(total),
                free_bytes=int(free),
                bfloat16_speed=_bfloat16_speed(torch, f"cuda:{place}"),
            )
        )
    if torch.backends.mps.is_available():
        found.append(Device(name="mps", what="the GPU of this Mac"))
    return found


def _bfloat16_speed(torch: Any, device: str) -> float:
    """The time of a product of matrices in float32 over that in bfloat16."""

    def seconds(dtype: Any) -> float:
        one = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
        end: Callable[[], Any] = torch.cuda.synchronize if device != "cpu" else int
        times = []
        for _ in range(RUNS + 1):  # the first run is not counted
            begun = time.perf_counter()
            one @ one
            end()
            times.append(time.perf_counter() - begun)
        return median(times[1:])

    return seconds(torch.float32) / seconds(torch.bfloat16)


def _installed(name: str) -> str:
    try:
        minilm() if name == "minilm" else parts_of(name)
    except MissingDependency as missing:
        return str(missing).partition(": ")[2]
    return "installed"


def _places() -> dict[str, str]:
    from huggingface_hub import constants

    why = unreachable()
    return {
        "cache of the Hub": str(constants.HF_HUB_CACHE),
        "cache of tlm": str(cache()),
        "the Hub": f"cannot be reached ({why})" if why else "answers",
    }
