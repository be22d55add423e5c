"""Programs that validation refuses."""

from tcelab.errors import UsageError
from tcelab.program import Program
from tcelab.program.validate import validate


def refusal(topology, ops):
    """Why a program of these operations is refused, without its name and the operation's; empty if it is not."""
    try:
        validate(Program(name="p", topology=topology, ops=[*ops]))
    except UsageError as error:
        return error.message.partition(": ")[2]
    return ""
