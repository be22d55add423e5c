"""L0's tables as L2 filled them: addresses of L0's memory become L2's, wherever they are L2's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tcelab.passthrough.chain import Chain, ChainRam
from tcelab.program.topology import Topology
from tcelab.qemu.guest import Guest
from tcelab.qemu.hostviews import HostViews
from tcelab.run.record import TableView


class InnerViews(HostViews):
    """See `HostViews`. Of PEs that are passed through, tables are told in L2's addresses; those of L1's own PEs stay as
    they are.
    """

    def __init__(self, guest: Guest, topology: Topology, chain: Chain, trouble: Callable[[], tuple[str, ...]]) -> None:
        """:param trouble: lines of kernel trouble since it was called last, of both kernels.
        :raise Unsupported: as `HostViews`.
        """
        super().__init__(guest, topology)
        self._chain = chain
        self.ram = ChainRam(guest.ram, chain)
        self._passed = {phb.liobn | window for phb in topology.phbs for window in (0, 1)}
        self._told = trouble

    def trouble(self) -> tuple[str, ...]:
        return self._told()

    def _read_live(self) -> list[TableView]:
        return self._of_l2(super()._read_live())

    def streamed(self) -> list[TableView]:
        return self._of_l2(super().streamed())

    def _of_l2(self, tables: list[TableView]) -> list[TableView]:
        return [
            replace(table, tce=self._chain.inner(table.tce)) if table.liobn in self._passed else table
            for table in tables
        ]
