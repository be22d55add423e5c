"""QEMU's monitor (QMP), each command of which is logged, before it and after it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from qemu.qmp import QMPClient

_LOG: Final = logging.getLogger(__name__)

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # a QEMU that dies is reported by us, once


class Monitor(QMPClient):
    """Lives on the loop, as all that it is made of."""

    async def execute(
        self,
        cmd: str,
        arguments: Mapping[str, object] | None = None,
        oob: bool = False,  # noqa: FBT001, FBT002 - QMPClient's own
    ) -> object:
        """See `QMPClient`."""
        if not _LOG.isEnabledFor(logging.DEBUG):
            return await super().execute(cmd, arguments, oob)
        _LOG.debug("QMP %s%s", cmd, f" {dict(arguments)}" if arguments else "")
        began, how = time.perf_counter(), "failed"
        try:
            answer = await super().execute(cmd, arguments, oob)
            how = "done"
            return answer
        finally:
            _LOG.debug("QMP %s: %s after %.2f ms", cmd, how, 1e3 * (time.perf_counter() - began))
