"""What must be true after raw hypercalls of a guest under KVM whose device is passed through: of the table beneath, and
of what the guest reads, which is KVM's own copy.

Source: arch/powerpc/kvm/book3s_64_vio.c, Linux 6.12; for what it hands to QEMU, hw/ppc/spapr_iommu.c (put_tce_emu) and
hw/vfio/listener.c (vfio_iommu_map_notify).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tcelab.judge.models.hypercallmodel import INDIRECT, STUFF, SUCCESS, HypercallModel, Word
from tcelab.judge.models.tablemodel import TableModel
from tcelab.papr import tce, window
from tcelab.papr.hcallnumbers import OPCODES

_PAGE: Final = window.PAGE_SIZE


class _Copy(NamedTuple):
    """:ivar value: what the guest wrote; None: the agent did not tell.
    :ivar touches: of the table, when that was done.
    """

    value: int | None
    touches: int


class KvmModel(HypercallModel):
    """See `HypercallModel`. A hypercall of several pages lies within its window: no other may be in a program, see
    `tcelab.program.kvmcalls`.
    """

    def __init__(self, *parts: Any) -> None:  # noqa: ANN401 - as `HypercallModel`
        super().__init__(*parts)
        self._copies: dict[tuple[int, int], _Copy] = {}
        self._own: set[tuple[int, int]] = set()
        """LIOBN, and number of the touch: those that are this model's."""

    def _one(self, given: Any, *how: Any) -> None:  # noqa: ANN401 - as `HypercallModel`
        before = {liobn: model.touches for liobn, model in self._tables.items()}
        super()._one(given, *how)
        if why := self._impossible(given, how[0]):
            liobn, ioba, *_ = (word.value for word in given[1])
            self._wrong(why, "H_PARAMETER (-4)", "H_SUCCESS", (liobn, ioba))
        for liobn, model in self._tables.items():
            self._own.update((liobn, touch) for touch in range(before[liobn], model.touches))

    @staticmethod
    def _impossible(given: Any, status: int | None) -> str:  # noqa: ANN401 - as `HypercallModel`
        """What KVM refuses and has not; empty: nothing."""
        opcode, (_, ioba, word, *_), _ = given
        if status != SUCCESS or opcode not in OPCODES:
            return ""
        if ioba.value is not None and ioba.value % _PAGE:
            return "KVM takes no IOBA that is not aligned to a page"
        if opcode == STUFF and word.value is not None and tce.permissions(word.value):
            return "KVM takes no TCE with permissions for H_STUFF_TCE"
        return ""

    @staticmethod
    def _kept(model: TableModel | None, first: int, how: tuple[int, int | None, int], tce_list: int | None) -> int:
        """How many entries it has stored; -1: it cannot have succeeded. What is refused has stored nothing."""
        del tce_list
        opcode, status, count = how
        if status != SUCCESS or (count == 0 and opcode in (STUFF, INDIRECT)):
            return 0
        inside = model is not None and first >= 0 and 0 < count <= model.entries - first
        return count if inside else -1

    def _refused(self, *_: Any) -> None:  # noqa: ANN401 - as `HypercallModel`
        """A list outside RAM is read by the QEMU that runs the guest, and not by the outermost one."""

    def _store(
        self, model: TableModel, first: int, words: Sequence[tuple[Word, int]], step: int, *, listed: bool
    ) -> None:
        hard = any(self._hard(word) for word, _ in words)
        each = [word for word, count in words for _ in range(count)]
        for number, word in enumerate(each, first):
            beneath = self._beneath(word, hard=hard, listed=listed)
            if beneath is None:
                model.tried(number, number + 1, step)
            else:
                super()._store(model, number, [(beneath, 1)], step, listed=listed)
            self._copies[model.liobn, number] = _Copy(word.value, model.touches)

    def _beneath(self, word: Word, *, hard: bool, listed: bool) -> Word | None:
        """What a TCE becomes in the table beneath; None: the entry there stays as it was."""
        if word.value is None:
            return word
        address, bits = tce.address(word.value), word.value % _PAGE
        if not tce.permissions(bits):
            return word if listed and not hard else Word(0)
        if not hard:
            return word
        if address >= self._ram:
            return None
        return word._replace(value=address | (tce.PERMISSIONS if bits & tce.WRITE else tce.READ))

    def _hard(self, word: Word) -> bool:
        """KVM hands it to QEMU: with permissions, and reserved bits, or an address that is none of the guest's RAM."""
        if word.value is None or not tce.permissions(word.value):
            return False
        return bool(word.value % _PAGE & ~tce.PERMISSIONS) or tce.address(word.value) >= self._ram

    def _held(self, model: TableModel, number: int) -> int | None:
        copy = self._copies.get((model.liobn, number))
        if copy is None:
            return super()._held(model, number)
        # Whatever a driver has done since went by KVM as well, and so is in both tables.
        theirs = [at for at in model.touched(number, copy.touches) if (model.liobn, at) not in self._own]
        return super()._held(model, number) if theirs else copy.value
