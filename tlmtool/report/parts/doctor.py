"""The part of a report of doctor: versions, devices and optional packages on this machine."""

from dataclasses import dataclass
from typing import ClassVar

from tlmtool.report.figures import View, human
from tlmtool.report.layout import Document, Part, entry


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a model can run on."""

    name: str = entry("what `--device` calls it")
    what: str = entry("what it is, in words")
    memory_bytes: int | None = entry("its memory", "bytes", optional=True)
    free_bytes: int | None = entry("of that, what is free", "bytes", optional=True)
    bfloat16_speed: float | None = entry(
        "how fast bfloat16 is beside float32, measured on one product of matrices; below 1 it is "
        "slower",
        optional=True,
    )


@dataclass(frozen=True, kw_only=True)
class Extra:
    """Optional packages that are installed together."""

    name: str = entry("name of the extra")
    purpose: str = entry("what it is for")
    missing: tuple[str, ...] = entry("its packages that are missing or too old")


@dataclass(frozen=True, kw_only=True)
class Doctor(Part):
    """What tlm finds on this machine."""

    verbs: ClassVar = {"doctor": ""}

    versions: dict[str, str] = entry("version of Python and of each package that tlm needs")
    devices: tuple[Device, ...] = entry("the devices")
    extras: tuple[Extra, ...] = entry("the extras of tlm")
    models: dict[str, str] = entry(
        "models with a name: `installed`, or the command that installs it"
    )
    places: dict[str, str] = entry("folders of caches, and whether the Hub can be reached")
    problems: tuple[str, ...] = entry("what keeps tlm from working as it should")

    def views(self, report: Document, full: bool) -> list[View]:
        versions = [[name, text] for name, text in self.versions.items()]
        devices = [[each.name, _described(each)] for each in self.devices]
        extras = [[e.name, f"{_state(e)}: {e.purpose}"] for e in self.extras]
        lacking = ",".join(each.name for each in self.extras if each.missing)
        install = f"for all that is missing: pip install 'tlmtool[{lacking}]'" if lacking else ""
        return [
            View("problems", ["", "text"], [["!", each] for each in self.problems]),
            View("versions", ["", "text"], versions),
            View("devices", ["", "text"], devices),
            View("optional packages", ["extra", "text"], extras, install),
            View("models with a name", ["", "text"], [list(each) for each in self.models.items()]),
            View("places", ["", "text"], [list(each) for each in self.places.items()]),
        ]


def _described(device: Device) -> str:
    told = [device.what]
    if device.memory_bytes is not None:
        free = f", {human(device.free_bytes, 'B')} free" if device.free_bytes is not None else ""
        told.append(f"{human(device.memory_bytes, 'B')} of memory{free}")
    if device.bfloat16_speed is not None:
        told.append(f"bfloat16 {device.bfloat16_speed:.2g} times as fast as float32 (measured)")
    return "; ".join(told)


def _state(extra: Extra) -> str:
    return f"MISSING {', '.join(extra.missing)}" if extra.missing else "installed"
