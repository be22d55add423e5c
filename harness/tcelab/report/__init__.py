"""What a run leaves for its readers: `result.json`, `junit.xml`, the final text, and progress while it lasts."""

from tcelab.report.hcalltable import HypercallRow, conformance_lines, hypercall_rows
from tcelab.report.isolationlog import Moment, log_lines, timeline
from tcelab.report.junit import junit, write_junit
from tcelab.report.progress import Progress
from tcelab.report.result import SCHEMA, Result, failed, load, make, to_json, write
from tcelab.report.seriesresult import merge, render_series
from tcelab.report.text import Extent, render

__all__ = [
    "SCHEMA",
    "Extent",
    "HypercallRow",
    "Moment",
    "Progress",
    "Result",
    "conformance_lines",
    "failed",
    "hypercall_rows",
    "junit",
    "load",
    "log_lines",
    "make",
    "merge",
    "render",
    "render_series",
    "timeline",
    "to_json",
    "write",
    "write_junit",
]
