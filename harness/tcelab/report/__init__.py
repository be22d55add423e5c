"""What a run leaves for its readers: `result.json`, `junit.xml`, the final text, and progress while it lasts.

- `cases`: the test cases of a result, for `junit` and `ktap`
- `hcalltable`: the conformance table of the scenario `hcalls`
- `isolationlog`: the timeline of each PE, and `isolation.log`
- `junit`: `junit.xml`
- `ktap`: KTAP, for the kernel's test runners
- `lawspage`: `docs/laws.md`, made from the laws
- `leakchecktext`: the final text of a leak check
- `lifelog`: events in the life of a table, and the hypercalls meanwhile
- `livedisplay`: shows the tables of a running guest
- `progress`: progress on standard error
- `result`: `result.json`
- `resultpage`: `docs/result.md`: the schema of `result.json`, made from its structs
- `seriesresult`: one result of several runs
- `tabledump`: tables in a file, and two such files compared
- `tableview`: how full each table is, as text
- `text`: the final text
"""

from tcelab.report.hcalltable import HypercallRow, conformance_lines, hypercall_rows
from tcelab.report.isolationlog import Moment, log_lines, timeline
from tcelab.report.junit import junit, write_junit
from tcelab.report.ktap import ktap
from tcelab.report.progress import Progress
from tcelab.report.result import Result, failed, load, make, write
from tcelab.report.seriesresult import merge, render_series
from tcelab.report.text import Extent, render
from tcelab.run.resultfile import SCHEMA, to_json

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
    "ktap",
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
