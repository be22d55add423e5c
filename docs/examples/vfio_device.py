"""A PCI device in forty lines: it copies guest memory, page by page, and signals an MSI. Run it, and start QEMU."""

import asyncio

from tcelab.device.vfio_user import Bar, DmaRefused, PciDevice, Server
from tcelab.device.vfio_user.configspace import Identity

SOURCE, DESTINATION, SIZE, DOORBELL, STATUS = 0x00, 0x08, 0x10, 0x18, 0x20
BUSY, DONE, REFUSED = 1, 2, 3


class Copier(PciDevice):
    identity = Identity(vendor=0x1234, device=0x1CE1)
    bars = (Bar(0, 4096),)
    vectors = 1

    def reset(self):
        self.registers = dict.fromkeys((SOURCE, DESTINATION, SIZE, STATUS), 0)

    def read(self, bar, offset, size):
        return self.registers.get(offset, 0).to_bytes(8, "little")[:size].ljust(size, b"\0")

    def write(self, bar, offset, data):
        if offset == DOORBELL and self.registers[STATUS] != BUSY:
            self.registers[STATUS] = BUSY
            self.later(self.copy())
        elif offset in (SOURCE, DESTINATION, SIZE):
            self.registers[offset] = int.from_bytes(data[:8], "little")

    async def copy(self):
        try:
            data = await self.dma_read(self.registers[SOURCE], min(self.registers[SIZE], 4096))
            await self.dma_write(self.registers[DESTINATION], data)
            self.registers[STATUS] = DONE
        except DmaRefused as error:
            print(f"the machine's IOMMU refuses {error}", flush=True)
            self.registers[STATUS] = REFUSED
        self.signal()


async def main():
    async with Server(Copier()) as server:
        print(f'-device \'{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{server.path}"}}}}\'', flush=True)
        await server.serve()


if __name__ == "__main__":
    asyncio.run(main())
