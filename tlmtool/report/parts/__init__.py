"""The parts of a report. The folder is the registry: a file holds parts and how they are shown."""
