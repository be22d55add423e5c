"""`tcelab run --device`: a probe on a guest of tcelab's own, an address over ssh; all else is wrong usage."""

import pytest
from click.testing import CliRunner

from tcelab.cli.run import command
from tcelab.errors import UsageError


def asked(*words):
    """What the command raises."""
    done = CliRunner().invoke(command, [*words, "--device", "probe"], catch_exceptions=True)
    return done.exception


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("flow", "--topology", "two-pe"), "--device probe has a topology of its own: probe"),
        (("docs/examples/dma.json",), "--device is about a scenario"),
        (("flow", "--platform", "emulator"), "--device probe is not for --platform emulator"),
        (("lifecycle",), "QEMU carries none over an event: program 'lifecycle' has Reset"),
        (("hotplug",), "topology probe"),
        (("smp",), "nobody could say which one told them what: program 'smp' has AtOnce"),
        (("flow", "--device", "1:0.0"), "--device is about a machine over ssh"),
        (("windows-isolation",), "scenario windows-isolation needs edus"),
    ],
)
def test_what_a_probe_cannot_is_refused_by_name(words, said):
    error = asked(*words)
    assert isinstance(error, UsageError)
    assert said in error.message


def test_another_device_is_about_ssh_alone():
    done = CliRunner().invoke(command, ["flow", "--device", "1:0.0"])
    assert isinstance(done.exception, UsageError)
    assert "--device is about a machine over ssh" in done.exception.message
    assert "--device probe is a device of a guest" in done.exception.next_step
