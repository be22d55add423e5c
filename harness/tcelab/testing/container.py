"""The things of a guest that a test drives: a PE, a container, memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec

from tcelab.errors import UsageError
from tcelab.papr import tce
from tcelab.program import Checkpoint, Dma, Ioctl, Op, Page
from tcelab.run.record import Outcome, Snapshot, Step
from tcelab.scenarios import vocabulary as b
from tcelab.testing.expectedtable import TceTable
from tcelab.testing.transferred import EXPECTED, Expected, Transferred, transferred


class UnexpectedOutcomeError(AssertionError):
    """An operation did not give what its `expect` says. An AssertionError, so a test that does not catch it fails."""


class Guest(Protocol):
    """The interface of a guest that PEs, containers and buffers use; see `tcelab.testing.pseries.Pseries`."""

    @property
    def frames(self) -> Collection[int]: ...

    def perform(self, *ops: Op) -> list[Step]: ...

    def checkpoint(self, *, stream: bool = False) -> Snapshot: ...

    def table(self, pe: Pe) -> TceTable: ...


class Pe:
    """A PE under test: one PHB, its IOMMU group, its default window and its device. The fixture `pe` gives the first.

    :ivar guest: the guest that it belongs to.
    """

    def __init__(self, guest: Guest, names: b.Pe) -> None:
        self.guest = guest
        self.names = names

    @property
    def name(self) -> str:
        """Of its device in the topology, as `pe1`."""
        return self.names.name

    @property
    def liobn(self) -> int:
        """Of its default window (device tree: `ibm,dma-window`)."""
        return self.names.liobn

    @property
    def entries(self) -> int:
        """Number of entries of its default window, each of 4 KiB."""
        return self.names.entries

    @property
    def window_start(self) -> int:
        """Bus address at which the default window begins."""
        return self.names.phb.window_start

    @property
    def window_size(self) -> int:
        """Bytes of the default window: 1 GiB, on small topologies 16 MiB."""
        return self.names.phb.window_size

    def open(self, *, enable: bool = True) -> Container:
        """Bind the device to vfio-pci and put its group into a new container of type v1.

        :param enable: do VFIO_IOMMU_ENABLE as well, which charges the window against RLIMIT_MEMLOCK.
        :return: the container.
        :raise UnexpectedOutcomeError: the kernel refused a step.
        """
        ops = [*b.bind(self.names), *b.open_container(self.names)]
        self.guest.perform(*ops, *(b.enable(self.names) if enable else []))
        return Container(self.guest, self)


class Container:
    """A VFIO container of type v1 (VFIO_SPAPR_TCE_IOMMU) with one group. The fixture `container` gives one, enabled.

    `expect` of its methods is that of programs: `"ok"` (the call returned 0), an errno's name, or the returned number;
    None accepts any outcome. A word that no outcome can be is a UsageError.

    Source: Linux, drivers/vfio/vfio_iommu_spapr_tce.c, tce_iommu_ioctl; Documentation/driver-api/vfio.rst.

    :ivar pe: the PE whose group it contains.
    """

    def __init__(self, guest: Guest, pe: Pe) -> None:
        self._guest = guest
        self.pe = pe
        self._maps = 0
        self._device = False

    def map(
        self,
        buffer: Buffer,
        iova: int,
        *,
        page: int = 0,
        pages: int = 1,
        permissions: int = tce.PERMISSIONS,
        expect: str | int | None = "ok",
    ) -> Outcome:
        """Map pages of a buffer (VFIO_IOMMU_MAP_DMA). They are tagged first, so that the host can prove each entry by
        the page that it leads to.

        :param buffer: of the same guest.
        :param iova: bus address of the first, in bytes.
        :param page: number of the first page of the buffer.
        :param pages: how many IOMMU pages of 4 KiB; an entry is made for each.
        :param permissions: 1 the device may read memory, 2 it may write it, 3 both: see `tcelab.papr.tce`.
        :param expect: see the class. Linux gives EPERM when not enabled, ENXIO outside the window, EFAULT for memory
            that cannot be pinned, EINVAL for what is misaligned or has no permission.
        :return: its `frames` are those of the pages, in order.
        :raise UnexpectedOutcomeError: it gave something else.
        """
        __tracebackhide__ = True
        self._maps += 1
        place = Page(buffer.name, page)
        fits = page + pages <= buffer.pages
        tags = b.tag(place, pages, self.pe.liobn, iova, self._maps) if fits else []
        (op,) = b.map_dma(self.pe.names, place, iova, pages, permissions)
        *_, step = self._guest.perform(*tags, msgspec.structs.replace(op, expect=expect))
        return _outcome(step)

    def unmap(self, iova: int, pages: int = 1, *, expect: str | int | None = "ok") -> Outcome:
        """Unmap entries (VFIO_IOMMU_UNMAP_DMA). Entries that are empty already are no error.

        :param iova: bus address of the first, in bytes.
        :param pages: how many entries.
        :param expect: see the class. Linux gives EPERM when not enabled and ENXIO outside the window.
        :return: its value or errno.
        :raise UnexpectedOutcomeError: it gave something else.
        """
        __tracebackhide__ = True
        (op,) = b.unmap_dma(self.pe.names, iova, pages)
        return self._do(op, expect)

    def ioctl(self, request: str | int, *, expect: str | int | None = "ok", **fields: int) -> Outcome:
        """Do any ioctl on the container.

        :param request: its name without `VFIO_` and `IOMMU_`, or its number: see the operation `ioctl`.
        :param expect: see the class.
        :param fields: of its struct, by name; `argsz` is the struct's size, anything else is 0.
        :return: its value or errno, and the struct's output fields.
        :raise UnexpectedOutcomeError: it gave something else.
        """
        __tracebackhide__ = True
        return self._do(Ioctl(file=self.pe.names.container, request=request, fields=dict(fields)), expect)

    def dma(
        self, iova: int, size: int, *, to_memory: bool, offset: int = 0, expect: Expected | None = "ok"
    ) -> Transferred:
        """Have the device transfer bytes between memory and its own buffer (QEMU, hw/misc/edu.c). The host looks at the
        guest before and after, so the result is what was seen, not what the table allows. It takes some 0.1 s.

        :param iova: bus address in memory, in bytes.
        :param size: bytes, at least 1 and at most 4096.
        :param to_memory: the device writes memory; else it reads memory.
        :param offset: into the device's own buffer of 4096 bytes.
        :param expect: `"ok"`: all of it goes through; `"refused"`: none of it does; None: either, or a part.
        :return: which pieces passed and which were refused, and the pages that changed.
        :raise UnexpectedOutcomeError: something else became of it.
        :raise UsageError: no transfer can be that.
        """
        __tracebackhide__ = True
        if expect not in (None, *EXPECTED):
            raise UsageError(f"a transfer is expected to be {' or '.join(map(repr, EXPECTED))}, not {expect!r}")
        if not size:
            raise UsageError("a transfer of 0 bytes is none", next_step="give it a size of at least 1 byte")
        if not self._device:
            self._guest.perform(*b.open_device(self.pe.names))
            self._device = True
        (op,) = b.dma(self.pe.names, iova, size, to_memory=to_memory, offset=offset)
        # Recorded in the program, so that a replay, without the test's own snapshots, finds it as well.
        op = msgspec.structs.replace(op, expect="passed" if expect == "ok" else expect)
        assert isinstance(op, Dma)
        before = self._guest.checkpoint()
        done, look = self._guest.perform(op, Checkpoint())
        assert look.snapshot is not None
        phb = self.pe.names.phb
        mask, start = phb.devices[0].mask, phb.window_start
        looks = before, look.snapshot
        seen = transferred(op, _outcome(done), looks, self._guest.frames, mask=mask, window_start=start)
        if expect is not None and not seen.gave(expect):
            what = f"the {'write' if to_memory else 'read'} of {size} bytes at {iova:#x} by {self.pe.name}"
            raise UnexpectedOutcomeError(f"operation {done.number}, {what}, {seen.describe()}; expected: {expect}")
        return seen

    def close(self) -> None:
        """Close device, group and container. The kernel gives the window back, which takes 0.3 s for 1 GiB."""
        device = [self.pe.names.device] if self._device else []
        self._guest.perform(*b.close(*device, self.pe.names.group, self.pe.names.container))

    def _do(self, op: Op, expect: str | int | None) -> Outcome:
        __tracebackhide__ = True
        (step,) = self._guest.perform(msgspec.structs.replace(op, expect=expect))
        return _outcome(step)


class Buffer:
    """Memory of the agent, from `Pseries.buffer`.

    :ivar name: in the program.
    :ivar frames: the guest physical address of each IOMMU page (4 KiB), in bytes.
    """

    def __init__(self, name: str, frames: tuple[int, ...]) -> None:
        self.name, self.frames = name, frames

    @property
    def pages(self) -> int:
        """How many IOMMU pages of 4 KiB."""
        return len(self.frames)

    def tce(self, page: int = 0, permissions: int = tce.PERMISSIONS) -> int:
        """The TCE that leads to one of its pages (PAPR, H_PUT_TCE): address | permissions.

        :param page: number of the page.
        :param permissions: 1 the device may read memory, 2 it may write it, 3 both.
        :return: 64 bits.
        :raise IndexError: the buffer has no such page.
        """
        return tce.pack(self.frames[page], permissions)


def _outcome(step: Step) -> Outcome:
    assert step.outcome is not None
    return step.outcome
