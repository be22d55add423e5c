"""A lie in QEMU's memory about one entry, told once an event is over."""

from tcelab.program import Checkpoint, Flip


class TurnedEntry:
    """A session that turns an entry round before the checkpoint `after the lie`: one that is empty becomes what it was
    at the checkpoint `before`, and one that is still as it was then becomes empty.
    """

    def __init__(self, session, liobn, ioba):
        self._session, self._liobn, self._ioba, self._was = session, liobn, ioba, 0

    def __getattr__(self, name):
        return getattr(self._session, name)

    def _entry(self, snapshot):
        table = next(table for table in snapshot.tables if table.liobn == self._liobn)
        return {table.ioba(int(number)): int(tce) for number, tce in zip(table.index, table.tce, strict=True)}[
            self._ioba
        ]

    def intervene(self, op, frames):
        if isinstance(op, Checkpoint) and op.label == "after the lie":
            for bit in (bit for bit in range(64) if self._was >> bit & 1):
                self._session.intervene(Flip(liobn=self._liobn, ioba=self._ioba, bit=bit), [])
        result = self._session.intervene(op, frames)
        if isinstance(op, Checkpoint) and op.label == "before":
            self._was = self._entry(result)
        return result
