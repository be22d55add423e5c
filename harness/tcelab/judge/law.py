"""What a law is, apart from how it judges."""

from __future__ import annotations

from typing import NamedTuple


class Law(NamedTuple):
    """:ivar name: of the law, and of its file in `tcelab.judge.laws`.

    :ivar says: its sentence, as results and the README have it.
    :ivar needs: without which it says nothing.
    :ivar finds: how it judges, in one sentence.
    """

    name: str
    says: str
    needs: str
    finds: str
