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
FALLBACK_BODY = "This message is sealed end to end. Reading it takes Tillie."
BODY = f"{{{CLIENT}}}body"
SUBJECT = f"{{{CLIENT}}}subject"
XHTML = "{http://jabber.org/protocol/xhtml-im}html"

_LOOKALIKES = str.maketrans(
    {"і": "i", "ⅰ": "i", "ı": "i", "l": "i", "1": "i", "|": "i", "ӏ": "i", "е": "e"}
    | {"т": "t", "τ": "t", "ι": "i", "ε": "e", "ҽ": "e", "і": "i", "ͺ": ""}
)
_WORD = "tiiiie"


def defused(text: str) -> str:
    """*text* without lines that look like a mark."""
    if "[" not in unicodedata.normalize("NFKC", text) and not _bracketed(text):
        return text
    return "".join(
        "|" + line if _looks_like_mark(line) else line
        for line in text.splitlines(keepends=True)
    )


def _bracketed(text: str) -> bool:
    return any(sign in text for sign in "【〔⟦［〚")


def _looks_like_mark(line: str) -> bool:
    folded = unicodedata.normalize("NFKD", line).casefold()
    letters = "".join(
        sign
        for sign in folded
        if not sign.isspace() and unicodedata.category(sign) not in ("Cf", "Mn", "Cc")
    )
    return bool(letters) and (
        letters[0] in "[【〔⟦〚"
        and letters[1 : 1 + len(_WORD)].translate(_LOOKALIKES) == _WORD
    )


def imitated(message: Element) -> bool:
    """Whether a text of *message* could be taken for a mark."""
    texts = [child.text for child in message if child.tag in (BODY, SUBJECT)]
    for child in message:
        if child.tag == XHTML:
            texts += child.itertext()
    return any(text is not None and defused(text) != text for text in texts)


def defuse(message: Element) -> None:
    """Defuse every text a client might show of a contact's *message*, in place."""
    for child in message:
        if child.tag in (BODY, SUBJECT) and child.text:
            child.text = defused(child.text)
        elif child.tag == XHTML:
            for part in child.iter():
                part.text = defused(part.text) if part.text else part.text
                part.tail = defused(part.tail) if part.tail else part.tail


def mark_clear(message: Element) -> None:
    """Mark a clear *message* of somebody who has keys, in place.

    The formatted copy goes: a client that prefers it would not show the mark.
    """
    for child in list(message):
        if child.tag == XHTML:
            message.remove(child)
        elif child.tag in (BODY, SUBJECT):
            child.text = CLEAR + defused(child.text or "")


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
