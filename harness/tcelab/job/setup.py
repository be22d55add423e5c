"""From the user's choice to what a session needs: provisions images and QEMU builds, checks files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from tcelab import image
from tcelab.errors import Unsupported, UsageError
from tcelab.image import cures, kernelmutants, mutants
from tcelab.job.ownkernel import OwnKernel, examine
from tcelab.passthrough import innerqemu
from tcelab.program.topology import Topology
from tcelab.qemu import machine, probe
from tcelab.quirks import check as check_quirks
from tcelab.run.record import Guarding

DEFAULT_QEMU: Final = "qemu-11.1"
DEFAULT_IMAGE: Final = "guest"
DEFAULT_PROFILE: Final = "linux-v1"
TODAYS_PROFILES: Final = {DEFAULT_PROFILE, "linux-v2"}
"""Profiles of the guest's driver: one module, which makes containers of both types."""


class MachineChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The user's choice of a machine, by names that are still to be looked up: `qemu` is a recipe's name or a program;
    `kernel` and `initrd` replace the image's.

    :ivar profile: of the driver; a guest's kernel has today's.
    :ivar expect_quirks: known defects that are declared for the kernel, beside those that the recipe of the image
        declares for its own; without `without_quirks`.
    :ivar modules: where the modules of `kernel` are: the image's initrd then carries them in place of its own.
    :ivar mutant: of the image's driver or kernel, that is to be in the place of the image's own; empty: none.
    :ivar cures: of the quirks that the kernel shall not have, see `tcelab.image.cures`.
    :ivar papr: the law of that name is judged.
    :ivar restarts: the program has its guest boot again.
    :ivar loads: other QEMUs, by the names of their recipes, that the program loads its guest into.
    :ivar isolates: the program is for a platform that isolates PEs; `guard`: what is done for it, see `Facts`.
    """

    topology: Topology
    qemu: str = DEFAULT_QEMU
    image: str = DEFAULT_IMAGE
    kernel: Path | None = None
    modules: Path | None = None
    initrd: Path | None = None
    mutant: str = ""
    cures: tuple[str, ...] = ()
    memory: int = machine.MEMORY
    cpu: machine.CpuName = machine.CPU
    firmware: machine.Firmware = "auto"
    append: str = ""
    profile: str = DEFAULT_PROFILE
    expect_quirks: tuple[str, ...] = ()
    without_quirks: tuple[str, ...] = ()
    restarts: bool = False
    loads: tuple[str, ...] = ()
    isolates: bool = False
    guard: Guarding = "off"
    papr: bool = True


OPTIONS: Final = {
    "profile": "--profile",
    "qemu": "--qemu",
    "image": "--image",
    "kernel": "--kernel",
    "modules": "--modules",
    "initrd": "--initrd",
    "mutant": "--mutant",
    "cures": "--cure",
    "append": "--append",
    "memory": "--memory",
    "cpu": "--cpu",
    "firmware": "--firmware",
    "expect_quirks": "--expect-quirk",
    "without_quirks": "--without-quirk",
    "papr": "--no-papr",
}
"""The option of each field of a choice."""


class PreparedMachine(msgspec.Struct, frozen=True):
    """All that a session needs: each name of the choice looked up, and provisioned.

    :ivar digest: of the agent that must answer.
    :ivar provenance: where kernel, initrd and QEMU came from, for the result.
    """

    qemu: probe.Qemu
    options: machine.QemuOptions
    digest: str
    provenance: dict[str, Any]


def prepare(choice: MachineChoice) -> PreparedMachine:
    """Provision and check.

    :raise UsageError: a file that is not what it should be, or an unknown name.
    :raise Unsupported: this host cannot provision, or the kernel was built without what a guest needs.
    """
    own = _check(choice)
    quirks = quirks_of(choice)
    provenance: dict[str, Any] = {}
    qemu = _qemu(choice.qemu, provenance)
    kernel, initrd = choice.kernel, choice.initrd
    if kernel is None or initrd is None:
        of_kernel = bool(choice.mutant) and mutants.of_kernel(choice.mutant)
        instead = _mutant(choice, provenance) if choice.mutant and not of_kernel else _cured(choice, provenance)
        more = {"more": _inner(choice, provenance)} if choice.topology.nested else {}
        guest = image.ensure_guest(choice.image, own.for_image if own is not None else None, instead, **more)
        provenance["image"] = {"name": guest.name, "manifest": msgspec.to_builtins(guest.manifest)}
        if of_kernel:
            built = kernelmutants.build(choice.mutant)
            kernel, provenance["mutant"] = built.path, built.told()
        if choice.cures and choice.image == cures.known().image:
            cured = cures.build_kernel(cures.chosen(choice.cures, choice.image))
            kernel, provenance["cures"] = cured.path, cured.told()
        kernel, initrd = kernel or guest.kernel, initrd or guest.initrd
    provenance |= {"kernel": str(kernel), "initrd": str(initrd)}
    if own is not None:
        provenance["own kernel"] = own.told()
    options = machine.QemuOptions(
        kernel,
        initrd,
        choice.topology,
        choice.memory,
        choice.cpu,
        firmware=choice.firmware,
        append=choice.append,
        quirks=quirks,
        isolates=choice.isolates,
        guard=choice.guard,
        network=image.network(choice.image),
        restarts=choice.restarts,
        others=_others(choice, provenance),
        papr=choice.papr,
    )
    return PreparedMachine(qemu, options, image.agent_digest(), provenance)


def _inner(choice: MachineChoice, provenance: dict[str, Any]) -> dict[str, Path]:
    """The guest that a guest runs: its files, by their places there."""
    inner = image.ensure_guest(image.inner(choice.image))
    provenance["inner image"] = {"name": inner.name, "manifest": msgspec.to_builtins(inner.manifest)}
    return {innerqemu.KERNEL: inner.kernel, innerqemu.INITRD: inner.initrd}


def check(choice: MachineChoice) -> None:
    """The cheap checks of `prepare`, before any progress is shown.

    :raise UsageError: a file that is not there, an unknown name, or memory that no machine has.
    """
    machine.check_memory(choice.memory)
    for what, path in {"kernel": choice.kernel, "initrd": choice.initrd}.items():
        if path is not None and not path.is_file():
            raise _missing(what, path)
    quirks_of(choice)
    image.quirks(choice.image)
    for name in (choice.qemu, *choice.loads):
        if name not in image.recipe_names():
            probe.by_path(name)


def image_of(name: str, mutant: str, cured: tuple[str, ...] = ()) -> str:
    """The image that is run: a mutant or a cure of built-in code is one of the kernel that is built for an image of its
    own.

    :param cured: names of cures.
    :raise UsageError: another image was chosen, or nobody knows the mutant or a cure.
    """
    if cured and not mutant:
        of = cures.known()
        built_in = {cure.quirk for cure in of.cure if not of.of_module(cure)}
        name = of.image if name == DEFAULT_IMAGE and built_in & set(cured) else name
        cures.chosen(cured, name)
        return name
    if not mutant or not mutants.of_kernel(mutant):
        return name
    own = mutants.known_of_kernel().image
    if name not in {DEFAULT_IMAGE, own}:
        raise UsageError(
            f"the mutant {mutant} is one of the kernel of the image {own}, and --image is {name}",
            next_step="leave --image out",
        )
    return own


def _missing(what: str, path: Path) -> UsageError:
    return UsageError(
        f"no {what} {path}", next_step=f"give the path of a file; without --{what} the image's own is run"
    )


def _mutant(choice: MachineChoice, provenance: dict[str, Any]) -> Callable[[image.Manifest], Mapping[str, bytes]]:
    """What puts a mutant in the place of the image's driver, and says so in the result."""

    def instead(manifest: image.Manifest) -> Mapping[str, bytes]:
        built = mutants.build(choice.mutant, choice.image, manifest)
        provenance["mutant"] = built.told()
        return {built.module: built.content}

    return instead


def _cured(choice: MachineChoice, provenance: dict[str, Any]) -> Callable[[image.Manifest], Mapping[str, bytes]] | None:
    """What puts a driver with cures in the place of the image's, and says so in the result; None: the image's own."""
    if not choice.cures or choice.image == cures.known().image:
        return None

    def instead(manifest: image.Manifest) -> Mapping[str, bytes]:
        built = cures.build(cures.chosen(choice.cures, choice.image), choice.image, manifest)
        provenance["cures"] = built.told()
        return {built.module: built.content}

    return instead


def quirks_of(choice: MachineChoice) -> frozenset[str]:
    """The quirks declared for the kernel: a recipe declares those of its own kernel only, and what is cured is none.

    :raise UsageError: a quirk that nobody knows, or that is expected and cured.
    """
    expected = check_quirks(choice.expect_quirks)
    cured = {cure.quirk for cure in cures.chosen(choice.cures, choice.image)} if choice.cures else set()
    if both := sorted(expected & cured):
        raise UsageError(f"--expect-quirk {both[0]} and its cure exclude each other", next_step="leave one of them out")
    declared = expected if choice.kernel is not None else expected | image.quirks(choice.image)
    return declared - cured - check_quirks(choice.without_quirks)


def _check(choice: MachineChoice) -> OwnKernel | None:
    """The checks before anything is provisioned. Returns what is known about the user's own kernel."""
    machine.check_memory(choice.memory)
    if choice.initrd is not None and not choice.initrd.is_file():
        raise _missing("initrd", choice.initrd)
    if choice.mutant:
        mutants.find(choice.mutant)
        if choice.kernel is not None or choice.initrd is not None:
            raise UsageError("--mutant is about the image's own driver or kernel: leave --kernel and --initrd out")
    if choice.cures and (choice.kernel is not None or choice.initrd is not None):
        raise UsageError("--cure is about the image's own driver or kernel: leave --kernel and --initrd out")
    if choice.cures and choice.mutant:
        raise UsageError(
            "--cure and --mutant exclude each other: both change the driver", next_step="leave one of them out"
        )
    if choice.modules is not None and choice.initrd is not None:
        raise UsageError(
            "--modules and --initrd exclude each other: an initrd of yours is used as it is",
            next_step="leave --initrd out: the image's is then put together with these modules",
        )
    if choice.kernel is not None:
        return examine(choice.kernel, choice.modules, own_initrd=choice.initrd is not None)
    if choice.modules is not None:
        raise UsageError("--modules are those of a kernel of yours", next_step="give --kernel too")
    return None


def _others(choice: MachineChoice, provenance: dict[str, Any]) -> dict[str, tuple[probe.Qemu, probe.Abilities]]:
    """The other QEMUs that the guest is to be loaded into.

    :raise Unsupported: one that cannot take it in.
    """
    out = {}
    for name in choice.loads:
        told: dict[str, Any] = {}
        qemu = _qemu(name, told)
        provenance.setdefault("loads", {})[name] = told["qemu"]
        abilities = probe.probe(qemu)
        out[name] = qemu, abilities
        machine.check(abilities, choice.topology, choice.cpu)
        if choice.topology.cpus > 1 and not abilities.all_cpus_go_on:
            raise Unsupported(
                f"a guest cannot be loaded into {name}: QEMU {abilities.version} loads a guest with several CPUs, and"
                " only the first goes on"
            )
        if not abilities.mapped_ram:
            raise Unsupported(
                f"a guest cannot be loaded into {name}: QEMU {abilities.version} has no migration of RAM from a file"
            )
    return out


def _qemu(name: str, provenance: dict[str, Any]) -> probe.Qemu:
    if name not in image.recipe_names():
        qemu = probe.by_path(name)
        provenance["qemu"] = {"path": qemu.argv[0]}
        return qemu
    build = image.ensure_qemu(name)
    provenance["qemu"] = {"recipe": name, "manifest": msgspec.to_builtins(build.manifest)}
    return probe.Qemu(build.name, build.argv, build.environment, build.manifest.tree_sha256)
