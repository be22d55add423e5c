"""What a law is, apart from how it judges."""

from __future__ import annotations

from typing import NamedTuple


class Law(NamedTuple):
    """:ivar name: name of the law and of its file in `tcelab.judge.laws`.

    :ivar says: its sentence, as in results and the README.
    :ivar needs: what it needs; without it, the law says nothing.
    :ivar finds: how it judges, in one sentence.
    """

    name: str
    says: str
    needs: str
    finds: str
