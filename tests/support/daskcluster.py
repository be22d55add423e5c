"""A scheduler of dask.distributed and its workers, as processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from patience import PATIENCE

RULES = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
_CONNECTED = "Starting established connection"
_CLOSES = PATIENCE / 20


class DaskCluster:
    """A context manager: in its end, all of it ends."""

    def __init__(self, folder: Path, *options: str, rules=None) -> None:
        """:param options: of scheduler and workers, as their certificates."""
        self.folder, self.options = folder, options
        self.rules = RULES if rules is None else rules
        self.scheduler = None
        self.workers = []
        self.address = ""

    def __enter__(self):
        at = self.folder / "scheduler.json"
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(at)]
        try:
            self.scheduler = self._start("scheduler", "scheduler", *words)
            wait(lambda: at.exists() and at.read_text().endswith("}"), "the scheduler")
            self.address = json.loads(at.read_text())["address"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def worker(self, *options: str, vm=1, **environment: str):
        """One more worker, connected: its nanny's process."""
        name = f"worker-{len(self.workers)}"
        words = [
            "--host",
            "127.0.0.1",
            "--nthreads",
            "2",
            "--no-dashboard",
            "--local-directory",
            str(self.folder / name),
        ]
        words += ["--resources", f"vm={vm}"] if vm else []
        process = self._start(name, "worker", self.address, *words, *options, **environment)
        self.workers.append(process)
        wait(lambda: _CONNECTED in (self.folder / f"{name}.log").read_text(), name)
        return process

    def _start(self, name, *words, **environment):
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "dask", *words, *self.options],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.rules, **environment},
                start_new_session=True,
            )

    def __exit__(self, *_):
        # Asked first: who is killed cannot remove its semaphores from /dev/shm.
        for each in filter(None, [*self.workers, self.scheduler]):
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(each.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.wait(_CLOSES)
                    break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each.pid, signal.SIGKILL)  # what its nanny has left
            each.wait()


def wait(what, name):
    """Until something is so."""
    end = time.monotonic() + PATIENCE / 4
    while not what():
        assert time.monotonic() < end, name
        time.sleep(0.1)


def certificates(folder: Path):
    """An authority, and a certificate for everybody that it has signed: their files."""
    ca, ca_key, cert, key = (folder / name for name in ("ca.pem", "ca.key", "cert.pem", "key.pem"))
    request = folder / "request.pem"
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-batch"]
    for words in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=tests", "-keyout", str(ca_key), "-out", str(ca)],
        [*new, "-subj", "/CN=node", "-keyout", str(key), "-out", str(request)],
        [
            *("openssl", "x509", "-req", "-days", "2", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key)),
            *("-CAcreateserial", "-out", str(cert)),
        ],
    ):
        subprocess.run(words, check=True, capture_output=True)
    return ca, cert, key
