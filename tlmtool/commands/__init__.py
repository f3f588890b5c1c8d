"""The verbs, a file each: Recipe -> Report. Each loads, calls the library, and writes."""
