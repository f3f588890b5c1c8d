"""Tells optimum's exporters, where they are loaded, how to export models of our types."""

import sys
from typing import Any

from tlmtool.models.architectures import PREFIX

MANAGER = "optimum.exporters.tasks"  # the module whose TasksManager holds what can be exported


def known_to_exporters(kind: str) -> None:
    """Give `tlm-<kind>` what optimum knows of the base type: tasks, inputs and outputs.

    It looks at what is loaded already and imports nothing, since optimum loads a config once more
    after its exporters.
    """
    manager: Any = getattr(sys.modules.get(MANAGER), "TasksManager", None)
    tables: Any = getattr(manager, "_LIBRARY_TO_SUPPORTED_MODEL_TYPES", {})
    for table in tables.values():
        if kind in table:
            table.setdefault(PREFIX + kind, table[kind])
