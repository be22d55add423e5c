"""What tests of several folders share: one record of a guest, one account of what rows and mutants rest on, and how
tests are spread over processes.
"""

import gc
import signal
from collections import Counter

import pytest
import spread
from hypothesis import HealthCheck, settings

import rowkit
from thorough import THOROUGH, often

# How fast an example is done says nothing: others may be at work here.
settings.register_profile(
    "tcelab", max_examples=often(40, 100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tcelab")

# A shell that starts the tests in the background has interrupts ignored, and what is ignored is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)


# What is imported and collected stays, and is not looked through again and again meanwhile.
gc.set_threshold(100_000, 50, 100)


def pytest_configure(config):
    spread.give_back()
    output = getattr(config, "workeroutput", None)
    config.pluginmanager.register(spread.Collector(), "tcelab-collector")
    config.pluginmanager.register(spread.Whole() if output is None else spread.Worker(output), "tcelab-spread")


def pytest_collection_modifyitems(config, items):
    """What is for the night stays out of all other runs, and is counted as deselected."""
    left = [item for item in items if not THOROUGH and item.get_closest_marker("night")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_collection_finish():
    """What was collected stays: else the collector, which waits until a quarter as much is new, lets hundreds of MiB of
    dead sessions and tables stand.
    """
    gc.collect()
    gc.freeze()
    # What a test leaves is collected after it, by its size: Python need not look for it every 700 objects.
    gc.set_threshold(10_000, 20, 20)


KILLERS = {
    "guest": "killed by a difference from a guest",
    "row": "killed by a row that a guest gives",
    "source": "killed by a row, by source only",
    "law": "killed by a law",
    "equivalent": "equivalent",
    "survivor": "SURVIVED",
}


@pytest.fixture(scope="session")
def recorded(_tcelab_guests):
    """What a guest did with a program of `rowkit.recorded_programs`: run when it is first asked for."""
    done = {}
    programs = rowkit.recorded_programs()

    def of(name):
        if name not in done:
            made, rows = programs[name]
            with _tcelab_guests.fresh(made.topology.name, 0) as session:
                done[name] = rowkit.record(made, rows, session)
        return done[name]

    return of


def pytest_terminal_summary(terminalreporter):
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())]
    killers = [value for report in reports for name, value in report.user_properties if name == "killer"]
    if not killers:
        return
    kinds = Counter(killer.partition(":")[0] for killer in killers)
    terminalreporter.section("rows and mutants")
    terminalreporter.write_line(", ".join(f"{name}: {count}" for name, count in rowkit.counts().items()))
    told = [f"{text}: {kinds[kind]}" for kind, text in KILLERS.items() if kinds[kind]]
    terminalreporter.write_line(", ".join([f"mutants: {len(killers)}", *told]))
