"""A guest's kernel with one line of its built-in code changed. tcelab must find what that breaks.

``images/kernel-mutants.toml`` says which lines. A kernel costs the compilation of one file and a link, in the tree of
:mod:`tcelab.image.kerneltree`, and is kept::

    mutants/<key>.vmlinux
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final, NamedTuple

from tcelab.errors import HarnessError, UsageError
from tcelab.image import apt, library, mutants
from tcelab.image.guestimage import KERNEL
from tcelab.image.mutants import KernelFault
from tcelab.image.packages import Package
from tcelab.image.recipe import GuestRecipe, load
from tcelab.image.store import clear_no_space
from tcelab.logs import NOTE

__all__ = ["BuiltKernel", "build"]

_LOG: Final = logging.getLogger(__name__)


class BuiltKernel(NamedTuple):
    """A kernel that was built. `path`: of its vmlinux, in the cache."""

    path: Path
    fault: KernelFault
    package: Package

    def told(self) -> dict[str, object]:
        """For the result, so that its report cannot be mistaken for one on the kernel without the fault."""
        return mutants.Built(KERNEL, self.path.read_bytes(), self.fault, self.package).told()


def build(name: str, *, fetch: apt.Fetch = apt.fetch) -> BuiltKernel:
    """The kernel of a mutant; some milliseconds when it was built before.

    :raise UsageError: no such mutant.
    :raise Unsupported: this host cannot build.
    :raise HarnessError: the sources have changed, do not compile, or the fault changes nothing of what is built.
    """
    fault = mutants.find(name)
    of = load(mutants.known_of_kernel().image).recipe
    if not isinstance(fault, KernelFault) or not isinstance(of, GuestRecipe):
        raise UsageError(f"the mutant {name} is no fault of built-in code")
    clean = library.ensure_kernel(of.built)
    (package,) = clean.packages
    target = mutants.place([clean.tree_sha256, fault.file, fault.old, fault.new], ".vmlinux")
    if not target.is_file():
        with library.kernel_tree(of.built, fetch=fetch) as tree, clear_no_space():
            _LOG.info("building the kernel, mutant %s", name, extra=NOTE)
            where = f"{name}: {fault.file} of {tree.package.name} {tree.package.version}"
            content = tree.vmlinux({fault.file: mutants.replaced(fault, tree.source(fault.file), where)})
            if hashlib.sha256(content).hexdigest() == clean.file(KERNEL).sha256:
                raise HarnessError(
                    f"{where}: the kernel with the fault is the kernel without it: its line is not built",
                    next_step=f"correct `old` and `new` of {name}, or the options of {of.built}.toml",
                )
            mutants.write(target, content)
    return BuiltKernel(target, fault, package)
