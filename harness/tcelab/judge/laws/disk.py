"""The law of disks."""

from __future__ import annotations

from typing import Final

import numpy as np

from tcelab.judge import blame
from tcelab.judge.law import Law
from tcelab.judge.ledger import Ledger
from tcelab.judge.models.diskmodel import DiskModel
from tcelab.judge.models.fold import Fold
from tcelab.judge.models.reading import TableReading

LAW: Final = Law(
    "disk",
    says="each disk holds exactly what the successful transfers left there",
    needs="a checkpoint, and a virtio-blk device",
    finds="compares the whole disk with what its transfers should have left there",
)

_SHOWN = 16
"""Bytes shown in a message."""


def disk(ledger: Ledger, fold: Fold, seen: TableReading) -> None:
    """Each disk holds exactly what the successful transfers wrote, and elsewhere what it held at the start.

    Source: QEMU hw/block/virtio-blk.c; the refused part of a read of memory reaches the disk as zeros.
    """
    for model in fold.devices.values():
        if not isinstance(model, DiskModel):
            continue
        content = seen.snapshot.disks.get(model.name)
        if content is None or len(content) != len(model.memory):
            ledger.undecided_because(f"the disk of {model.name} was not read")
            continue
        ledger.judged("disk")
        ledger.evidence.disk += len(content)
        if content is model.right:
            continue  # the same object as last time; comparing a MiB at each checkpoint adds up
        if content != model.memory:
            _wrong(ledger, fold, model, content)
        model.right = content


def _wrong(ledger: Ledger, fold: Fold, model: DiskModel, content: bytes) -> None:
    """Report the first wrong byte, if any, then adopt the whole disk: from now on, every byte is known."""
    wanted, found, known = (np.frombuffer(each, np.uint8) for each in (model.memory, content, model.known))
    wrong = np.flatnonzero((wanted != found) & (known != 0))
    if len(wrong):
        at = int(wrong[0])
        expected, seen = (bytes(side[at : at + _SHOWN]).hex() for side in (model.memory, content))
        blamed = blame.disk(ledger, fold, model.name, at)
        differ = "1 byte differs" if len(wrong) == 1 else f"{len(wrong)} bytes differ"
        ledger.report(
            "disk",
            (model.name, at, seen, model.wrote(at)),
            f"the disk of {model.name} must hold {expected} at byte {at:#x}, seen {seen} ({differ})",
            liobn=model.table.liobn,
            expected=expected,
            seen=f"{seen} ({differ})",
            operation=blamed,
        )
    del wanted, known  # drop the views before the buffers change
    model.memory[:] = content
    model.known[:] = b"\1" * len(content)
