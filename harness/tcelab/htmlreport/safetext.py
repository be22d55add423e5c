"""Text that others wrote, so that it can be looked at: a guest's console, a kernel's message, the name of a cell.

Nothing in it may act: an escape sequence, a character that turns the direction of writing, half a surrogate pair. Each
is shown as what it is. What HTML would take for markup is the templates' business, which escape every value.
"""

from __future__ import annotations

import re
from typing import Final

_ACTING: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1, but tab and line feed
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # invisible, or of the direction of writing
    "\ud800-\udfff\ufffe\uffff]"  # what UTF-8 cannot carry, and no characters
)


def shown(text: str) -> str:
    r"""The text with each acting character as Python writes it, `\x1b[31m`: every font has that. CR LF ends a line."""
    return _ACTING.sub(_visible, text.replace("\r\n", "\n"))


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"  # noqa: PLR2004 - two digits
