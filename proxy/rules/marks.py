"""Words of Tillie inside a conversation, and why nobody else can say them.

Marks start a line with ``[Tillie``.  In a text that a contact wrote, sealed or
not, a line that could be taken for a mark is made to start with a ``|``, so the
mark is never in the hands of the one it speaks of (ENC-07, ENC-08).
"""

from __future__ import annotations

import unicodedata
from xml.etree.ElementTree import Element

from .classes import CLIENT

CLEAR = "[Tillie: NOT encrypted] "
UNREADABLE = (
    "[Tillie: a sealed message came that cannot be opened here; "
    "its key was asked for, and it will be shown if the key comes]"
)
UNREADABLE_OLD = "[Tillie: a sealed message that cannot be opened here]"
FALLBACK_BODY = "Encrypted with Tillie."
BODY = f"{{{CLIENT}}}body"
SUBJECT = f"{{{CLIENT}}}subject"
XHTML = "{http://jabber.org/protocol/xhtml-im}html"

_SHOWN = (BODY, SUBJECT, XHTML)
_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys(
            "\u0456\u0457\u0131\u04cf\u03b9l1|\ua4f2\ua4e1\u026a\u029f", "i"
        ),
        **dict.fromkeys("\u13a5\uab75\u13de\uabae\u1d35\u1d38", "i"),
        **dict.fromkeys("\u0435\u03b5\ua4f0\u1d07\u13ac\uab7c", "e"),
        **dict.fromkeys("\u0442\u03c4\ua4d4\u1d1b\u13a2\uab72", "t"),
    }
)
_WORD = "tiiiie"
_LOOKED_AT = 200
_MARGIN = 40
# letters by category, nothing by sight: fillers, and the empty Braille cell
_BLANK = "\u115f\u1160\u3164\uffa0\u2800"


def defused(text: str) -> str:
    """*text* without lines that look like a mark."""
    if text.isascii() and "[" not in text:
        return text
    return "".join(
        "|" + line if _looks_like_mark(line) else line
        for line in text.splitlines(keepends=True)
    )


def _looks_like_mark(line: str) -> bool:
    """Whether *line* begins, for an eye, with a bracket and the name.

    Everything that shows nothing is left out first; then the name is looked for
    behind any opening bracket among the first signs.
    """
    folded = unicodedata.normalize("NFKD", line[:_LOOKED_AT]).casefold()
    seen = [sign for sign in folded if not _invisible(sign)]
    if seen[:1] == ["|"]:
        # that is how a line looks that is none
        return False
    for at, sign in enumerate(seen[:_MARGIN]):
        if unicodedata.category(sign) == "Ps":
            letters = "".join(seen[at + 1 : at + 1 + len(_WORD) + 2])
            if _WORD in letters.translate(_LOOKALIKES):
                return True
    return False


def _invisible(sign: str) -> bool:
    return (
        sign.isspace()
        or sign in _BLANK
        or unicodedata.category(sign) in ("Cf", "Mn", "Me", "Cc", "Cn", "Co")
    )


def imitated(message: Element) -> bool:
    """Whether a text of *message* could be taken for a mark, in one piece or in
    several."""
    return any(
        _joined_imitates(child)
        or any(defused(text) != text for text in child.itertext())
        for child in message
        if child.tag in _SHOWN
    )


def _joined_imitates(child: Element) -> bool:
    text = "".join(child.itertext())
    return len(child) > 0 and defused(text) != text


def defuse(message: Element) -> None:
    """Defuse every text a client might show of a contact's *message*, in place.

    A plain text that comes in pieces is made one; a formatted one whose pieces
    together imitate a mark goes, for the plain one stands beside it.
    """
    for child in list(message):
        if child.tag in (BODY, SUBJECT):
            _flatten(child)
        elif child.tag == XHTML:
            for part in child.iter():
                part.text = defused(part.text) if part.text else part.text
                part.tail = defused(part.tail) if part.tail else part.tail
            if _joined_imitates(child):
                message.remove(child)


def _flatten(child: Element, mark: str = "") -> None:
    text = "".join(child.itertext())
    for part in list(child):
        child.remove(part)
    child.text = mark + defused(text)


def mark_clear(message: Element) -> None:
    """Mark a clear *message* of somebody who has keys, in place.

    Only plain texts stay: a client that prefers another form of the text would
    not show the mark.
    """
    for child in message:
        if child.tag in (BODY, SUBJECT):
            _flatten(child, CLEAR)


def placeholder(outer: dict[str, str], text: str) -> Element:
    """A message in the conversation of *outer* that says *text* and nothing else."""
    message = Element("{jabber:client}message")
    for name in ("to", "from", "type", "id"):
        if name in outer:
            message.set(name, outer[name])
    body = Element(BODY)
    body.text = text
    message.append(body)
    return message
