"""No unit test reads or writes what is the user's own: see `nobody`."""

import pytest
from broken_guests import guests
from nobody import nobody, settings_of_nobody
from shown import showing
from stand import host, tcelab
from stand_leakcheck import leakcheck
from stand_series import two

__all__ = ["guests", "host", "leakcheck", "nobody", "settings_of_nobody", "tcelab", "two"]


@pytest.fixture
def shown():
    """All that a user is shown of the log: `notes` and `phases`, and both in `lines`."""
    with showing() as display:
        yield display
