"""What becomes of a message on its way in: opened, marked, held or dropped.

The parts are ``wrappers`` (carbons, archive results), ``opening`` (seals) and
``cleartext`` (what should have been one).  Whatever fails, nothing is sent
because of it but one bounded request for an unknown key (ENC-19).
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from ..errors import PeerFault
from ..rules import classes, marks
from ..suites.entropy import stanza_id
from ..wire.jid import Jid
from ..wire.stanza import Stanza
from . import cleartext, wrappers
from .account import Account
from .opening import PAYLOAD, SEALS, open_seal, unreadable
from .phase import LOCAL_DOMAIN
from .verdicts import Deliver, Drop, Place, Verdict

_LAYER = f"{{{classes.LANE}}}"


def judge(account: Account, stanza: Stanza, *, retry: bool = False) -> Verdict:
    """The verdict on one message of the server.

    :param retry: it was held before, so what can be looked up has been.
    :raises StoreFault: the state could not be read.
    """
    message = stanza.tree()
    try:
        sender = Jid.parse(stanza.from_ or account.jid)
        place = Place.of(account.jid, message)
    except PeerFault:
        return Drop("an address that is none")
    wrapper = wrappers.wrapper_of(message)
    if wrapper is not None:
        return _wrapped(account, stanza, wrapper, sender, retry)
    return _judge(account, message, place, retry)


def _wrapped(
    account: Account, stanza: Stanza, wrapper: Element, sender: Jid, retry: bool
) -> Verdict:
    """A carbon or an archive result, its inner message opened in place.

    Only the own bare JID makes carbons (XEP-0280, 11; ID-01, ID-02), and only it
    the own archive, which may also leave itself out as the sender.
    """
    archive = wrapper.tag in wrappers.RESULTS
    if str(sender) != account.jid or (stanza.from_ is None and not archive):
        return wrappers.foreign(account, stanza, str(sender.bare), archive)
    inner = wrappers.inner_of(wrapper)
    if inner is None or stanza.type == "groupchat":
        return Drop("a wrapper that holds something else than one message")
    try:
        place = Place.of(account.jid, inner, archive=archive)
    except PeerFault:
        return Drop("an address that is none")
    if wrapper.tag == wrappers.CARBONS[1] and place.sender != account.jid:
        return Drop("a sent carbon of somebody else's message")
    verdict = _judge(account, inner, place, retry)
    return wrappers.rewrapped(stanza, inner, verdict, archive)


def _judge(account: Account, message: Element, place: Place, retry: bool) -> Verdict:
    if Jid.parse(message.get("from") or account.jid).domain == LOCAL_DOMAIN:
        return Drop("nobody on the network speaks as Tillie")
    if any(child.tag.startswith(_LAYER) for child in message):
        # keys travelling in an archive or a carbon are nobody's message
        empty = Deliver(Element(message.tag, message.attrib))
        return empty if place.archive else Drop("this layer's own words")
    if message.get("type") == "error":
        return cleartext.bare_error(account, message, place)
    seals = [child for child in message if child.tag in SEALS]
    if not seals:
        return cleartext.clear(account, message, place)
    if message.get("type") == "groupchat":
        # rooms are not sealed yet
        return unreadable(message)
    if len(seals) > 1 or [child.tag for child in seals[0]][:1] != [PAYLOAD]:
        account.notice(place.sender, f"a malformed seal came from {place.sender}")
        return unreadable(message)
    return open_seal(account, message, seals[0], place, retry)


def placeholder(account: Account, stanza: Stanza) -> Element:
    """What stands in the conversation while the key of *stanza* is missing."""
    message = stanza.tree()
    wrapper = wrappers.wrapper_of(message)
    inner = wrappers.inner_of(wrapper) if wrapper is not None else None
    # an id of its own: clients drop what repeats one, and the message may still come
    attributes = dict((message if inner is None else inner).attrib) | {
        "id": stanza_id()
    }
    note = marks.placeholder(attributes, marks.UNREADABLE)
    return note if inner is None else wrappers.replaced(message, inner, note)
