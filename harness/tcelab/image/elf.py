"""What tcelab reads of an ELF file: its header, the names of its sections, a module's `.modinfo`.

pyelftools reads it. On a damaged file pyelftools raises more than its own errors, and it trusts any number of sections
that a header claims. Here all these errors become one, and the number is compared with the file's size.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final

if TYPE_CHECKING:
    from elftools.elf.sections import Section

__all__ = ["BadElfError", "Elf", "modinfo"]

_MACHINES: Final = {"EM_386": "i386", "EM_PPC": "32-bit PowerPC", "EM_AARCH64": "arm64"}
"""Architectures whose common name differs from the ELF specification's."""

_BRANCHES: Final = {10, 116}
"""R_PPC64_REL24, R_PPC64_REL24_NOTOC: ELFv2 ABI, 3.5.3."""


class BadElfError(Exception):
    """A file is no ELF file, or a damaged one. The message is one line."""


class Elf:
    """An ELF file that is open.

    :ivar machine: the architecture, such as `ppc64`.
    :ivar linked: something that can be started: ET_EXEC, and ET_DYN, as a relocatable kernel is.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        """:raise BadElfError: its header cannot be read."""
        # Most runs read no ELF file, and the library takes longer to load than all of the command line.
        from elftools.elf.elffile import ELFFile  # noqa: PLC0415

        self._size = stream.seek(0, io.SEEK_END)
        with _sound():
            self._file = ELFFile(stream)
            machine = self._file["e_machine"]
            self.linked: bool = self._file["e_type"] in {"ET_EXEC", "ET_DYN"}
        self.little_endian: bool = self._file.little_endian
        named = isinstance(machine, str)
        self.machine: str = (
            _MACHINES.get(machine, machine.removeprefix("EM_").lower()) if named else f"machine {machine}"
        )

    def section_names(self) -> list[str]:
        """:raise BadElfError: the file is damaged."""
        return [section.name for section in self._sections()]

    def has_interpreter(self) -> bool:
        """Whether a loader must start it.

        :raise BadElfError: the file is damaged.
        """
        with _sound():
            count = self._file.num_segments()
            self._check("program headers", self._file["e_phoff"], count, self._file.structs.Elf_Phdr.sizeof())
            return any(segment["p_type"] == "PT_INTERP" for segment in self._file.iter_segments())

    def loaded(self) -> Iterator[tuple[int, bytes, int]]:
        """Of what is loaded: physical address, content, bytes in memory.

        :raise BadElfError: the file is damaged.
        """
        with _sound():
            count = self._file.num_segments()
            self._check("program headers", self._file["e_phoff"], count, self._file.structs.Elf_Phdr.sizeof())
            for segment in self._file.iter_segments("PT_LOAD"):
                self._check("segment", segment["p_offset"], segment["p_filesz"], 1)
                yield segment["p_paddr"], segment.data(), segment["p_memsz"]

    def section(self, name: str) -> bytes:
        """A section's content; empty if it is not there.

        :raise BadElfError: the file is damaged.
        """
        return next((self._content(each) for each in self._sections() if each.name == name), b"")

    def functions(self, section: str) -> list[tuple[str, int, int]]:
        """The functions of a section: name, offset in the section, bytes.

        :raise BadElfError: the file is damaged.
        """
        from elftools.elf.sections import SymbolTableSection  # noqa: PLC0415

        sections = self._sections()
        number = next((index for index, each in enumerate(sections) if each.name == section), None)
        with _sound():
            return [
                (each.name, each["st_value"], each["st_size"])
                for table in sections
                if isinstance(table, SymbolTableSection)
                for each in table.iter_symbols()
                if each["st_info"]["type"] == "STT_FUNC" and each["st_shndx"] == number
            ]

    def branches(self, section: str) -> dict[int, str]:
        """By offset in a section, the symbols that branches there are relocated to (R_PPC64_REL24 and its kin).

        :raise BadElfError: the file is damaged.
        """
        from elftools.elf.relocation import RelocationSection  # noqa: PLC0415
        from elftools.elf.sections import SymbolTableSection  # noqa: PLC0415

        found: dict[int, str] = {}
        sections = self._sections()
        with _sound():
            for each in sections:
                symbols = self._file.get_section(each["sh_link"]) if each.name == f".rela{section}" else None
                if isinstance(each, RelocationSection) and isinstance(symbols, SymbolTableSection):
                    for entry in each.iter_relocations():
                        if entry["r_info_type"] in _BRANCHES:
                            found[entry["r_offset"]] = symbols.get_symbol(entry["r_info_sym"]).name
        return found

    def modinfo(self) -> dict[str, str]:
        """What a module tells of itself; of a key that comes several times, the first value.

        :raise BadElfError: the file is damaged.
        """
        found: dict[str, str] = {}
        for section in self._sections():
            if section.name == ".modinfo":
                for text in filter(None, self._content(section).split(b"\0")):
                    key, _, value = text.decode(errors="replace").partition("=")
                    found.setdefault(key, "".join(each if each.isprintable() else "?" for each in value))
        return found

    def _sections(self) -> list[Section]:
        with _sound():
            count = self._file.num_sections()
            self._check("section headers", self._file["e_shoff"], count, self._file.structs.Elf_Shdr.sizeof())
            return list(self._file.iter_sections())

    def _content(self, section: Section) -> bytes:
        with _sound():
            self._check(section.name, section["sh_offset"], section["sh_size"], 1)
            return section.data() if not section.compressed and section["sh_type"] == "SHT_PROGBITS" else b""

    def _check(self, what: str, offset: int, count: int, size: int) -> None:
        if offset + count * size > self._size:
            raise BadElfError(f"its {what} lie behind its end; is it whole?")


def modinfo(module: bytes) -> dict[str, str]:
    """What an unpacked module tells of itself.

    :raise BadElfError: it is none.
    """
    return Elf(io.BytesIO(module)).modinfo()


@contextmanager
def _sound() -> Iterator[None]:
    """:raise BadElfError: in place of whatever pyelftools raises over a damaged file."""
    from elftools.common.exceptions import ELFError  # noqa: PLC0415 - as above
    from elftools.construct import ConstructError  # noqa: PLC0415

    try:
        yield
    except (
        ELFError, ConstructError, LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError
    ) as error:  # fmt: skip
        raise BadElfError(" ".join(str(error).split()) or type(error).__name__) from None
