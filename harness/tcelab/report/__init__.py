"""What a run leaves for its readers: `result.json`, `junit.xml`, the final text, and progress while it lasts."""

from tcelab.report.junit import junit, write_junit
from tcelab.report.progress import Progress
from tcelab.report.result import SCHEMA, Result, failed, load, make, to_json, write
from tcelab.report.text import render

__all__ = [
    "SCHEMA",
    "Progress",
    "Result",
    "failed",
    "junit",
    "load",
    "make",
    "render",
    "to_json",
    "write",
    "write_junit",
]
