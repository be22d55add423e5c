"""Hypercalls on tables, counted while a guest goes through an event."""

from types import SimpleNamespace

from tcelab.qemu.life.counting import HypercallCounts, counted

LINES = (
    "2026-11-30T13:00:00.123456Z spapr_iommu_pci_stuff liobn=80000100 ioba=0x200000 tcevalue=0x0 npages=512 ret=0",
    "spapr_iommu_pci_stuff liobn=0x80000100 ioba=0x400000 tcevalue=0x0 npages=512 ret=0",
    "spapr_iommu_pci_get liobn=80000100 ioba=0x1000 ret=0 tce=0x0",
    "spapr_iommu_pci_put liobn=80000200 ioba=0x1000 tce=0x1003 ret=-4",
    "spapr_iommu_pci_indirect liobn=80000201 ioba=0x0 tcelist=0x1000 iobaN=0xf tceN=0x3 ret=0",
)
OTHERS = ("spapr_iommu_new_table liobn=80000100 table=0x7f00 fd=-1", "spapr_iommu_ddw_remove liobn=80000101")


def test_calls_are_told_apart_by_liobn_and_kind_whatever_their_status():
    counts = HypercallCounts()
    for line in (*LINES, *OTHERS):
        counts.line(line)
    assert [tuple(each.values()) for each in counts.told()] == [
        (0x80000100, "H_GET_TCE", 1),
        (0x80000100, "H_STUFF_TCE", 2),
        (0x80000200, "H_PUT_TCE", 1),
        (0x80000201, "H_PUT_TCE_INDIRECT", 1),
    ]


class Guest:
    """A guest whose log tells lines when it is drained."""

    def __init__(self, listener=None):
        self.asked, self.lines = [], []
        self.log = SimpleNamespace(tables_listener=listener, drain=self.drain)

    def drain(self):
        for line in self.lines:
            self.log.tables_listener(line)
        self.lines.clear()

    async def qmp(self, command, *, name, enable, **more):
        self.asked.append((command, name, enable, more))


def test_the_traces_are_on_for_as_long_as_the_event_lasts_and_the_last_line_is_heard():
    guest = Guest()
    with counted(SimpleNamespace(guest=guest, options=SimpleNamespace(papr=False))) as counts:
        assert [(name, on) for _, name, on, _ in guest.asked] == [
            (f"spapr_iommu_pci_{end}", True) for end in ("put", "get", "stuff", "indirect")
        ]
        assert all(more == {"ignore-unavailable": True} for *_, more in guest.asked)
        guest.lines += LINES
    assert sum(each["calls"] for each in counts.told()) == len(LINES)
    assert [on for _, _, on, _ in guest.asked[4:]] == [False] * 4
    assert guest.log.tables_listener is None


def test_where_a_leak_check_counts_it_alone_does():
    heard = []
    guest = Guest(heard.append)
    with counted(SimpleNamespace(guest=guest, options=SimpleNamespace(papr=True))) as counts:
        guest.lines += LINES
        guest.drain()
    assert (counts.told(), heard, guest.asked) == ([], list(LINES), [])


def test_traces_that_the_law_papr_listens_to_stay_on():
    guest = Guest()
    with counted(SimpleNamespace(guest=guest, options=SimpleNamespace(papr=True))):
        pass
    assert [(name, on) for _, name, on, _ in guest.asked] == [
        (f"spapr_iommu_pci_{end}", on) for on in (True, False) for end in ("put", "get")
    ]
