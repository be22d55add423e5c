"""Toy kernels and module trees: just the bytes that tcelab reads of them."""

from __future__ import annotations

import gzip
import lzma
import struct
import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RELEASE = "6.12.1-toy"
DEPENDS = {
    "virtio": (),
    "virtio_ring": ("virtio",),
    "virtio_pci": ("virtio_ring", "virtio"),
    "virtio_console": ("virtio_ring", "virtio"),
    "vfio": (),
    "vfio_virqfd": (),
    "vfio_iommu_spapr_tce": ("vfio",),
    "vfio-pci-core": ("vfio", "vfio_virqfd"),
    "vfio-pci": ("vfio_pci_core",),  # with the other dash, as modpost may write it
}
"""What depends on what in a kernel that has nothing built in."""

PACKERS = {
    "": bytes,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
    # As the program zstd does it.
    ".zst": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: True}),
    ".lz4": bytes,
}


def elf(machine=21, *, big=False, kind=2, sections=None, rest=b""):
    """An ELF file of 64 bits with these sections (name to content), and `rest` that belongs to none."""
    order = ">" if big else "<"
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*(sections or {}), ".shstrtab"])
    content, headers = b"", [bytes(64)]
    for name, data in [*(sections or {}).items(), (".shstrtab", names)]:
        at, kind_of = 64 + len(content), 3 if name == ".shstrtab" else 1  # SHT_STRTAB, SHT_PROGBITS
        number = names.index(b"\0" + name.encode() + b"\0") + 1
        headers.append(struct.pack(f"{order}IIQQQQIIQQ", number, kind_of, 0, 0, at, len(data), 0, 0, 1, 0))
        content += data
    content += rest
    identity = b"\x7fELF\x02" + (b"\x02" if big else b"\x01") + b"\x01" + bytes(9)
    header = struct.pack(
        f"{order}HHIQQQIHHHHHH",
        kind, machine, 1, 0, 0, 64 + len(content), 0, 64, 56, 0, 64, len(headers), len(headers) - 1,
    )  # fmt: skip
    return identity + header + content + b"".join(headers)


def vmlinux(release=RELEASE, *, config="", big=False, texts=()):
    banner = f"\0Linux version {release} (toy@host) (gcc) #1 SMP\n\0".encode() if release else b""
    packed = b"IKCFG_ST" + gzip.compress(config.encode()) + b"IKCFG_ED" if config else b""
    return elf(big=big, rest=bytes(100) + b"Linux version %s (%s)\0" + banner + packed + b"\0".join([*texts, b""]))


def module(name, release=RELEASE, depends=None):
    needs = ",".join(DEPENDS.get(name, ()) if depends is None else depends)
    texts = ["license=GPL", f"depends={needs}", f"name={name.replace('-', '_')}", f"vermagic={release} SMP mod_unload "]
    return elf(kind=1, sections={".text": bytes(4), ".modinfo": b"".join(text.encode() + b"\0" for text in texts)})


def tree(folder, release=RELEASE, *, modules=tuple(DEPENDS), builtin=(), packed=""):
    """Fill lib/modules/RELEASE; returns it. `builtin` None: without the list of them."""
    for number, name in enumerate(modules):
        path = folder / f"kernel/drivers/{number % 2}/{name}.ko{packed}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PACKERS[packed](module(name, release)))
    folder.mkdir(parents=True, exist_ok=True)
    if builtin is not None:
        (folder / "modules.builtin").write_text("".join(f"kernel/drivers/{name}.ko\n" for name in builtin))
    return folder
