"""What a probe must do: an edu to its driver, which waits for the consequences of each page of a transfer."""

from __future__ import annotations

from dataclasses import dataclass

from tcelab.judge.models.diskmodel import DiskModel
from tcelab.judge.models.edumodel import DeviceModel
from tcelab.judge.models.pes import isolates
from tcelab.judge.models.windowmodel import WindowModel
from tcelab.papr import dmarules
from tcelab.program import Dma, Flight, Transfer
from tcelab.program.topology import Device
from tcelab.run.record import Facts


def of(device: Device, windows: WindowModel, facts: Facts) -> DeviceModel | None:
    """The model of a device that is no plain edu, None of any other."""
    if device.model == "virtio-blk":
        return DiskModel(device.name, windows)
    return ProbeModel(device.name, windows, device.mask, freezes=isolates(facts)) if device.model == "probe" else None


@dataclass(slots=True)
class ProbeModel(DeviceModel):
    """:ivar freezes: a violation isolates its PE, before the next page of the transfer is asked for."""

    freezes: bool = False

    @property
    def at_once(self) -> bool:
        """See `DeviceModel.at_once`."""
        return True

    def pieces(self, op: Dma | Transfer | Flight, *, isolated: bool) -> list[dmarules.Piece]:
        """See `DeviceModel.pieces`."""
        pieces = super(ProbeModel, self).pieces(op, isolated=isolated)
        return dmarules.stopped(pieces) if self.freezes else pieces
