"""Keys in PEP: reading contacts' and publishing the own ones (protocol.md, 3).

A look-up asks the contact's own bare JID for two nodes.  Only two answers of
that JID prove that there is no key: ``item-not-found`` and an empty node.
Every other error, and silence, is no answer at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias
from xml.etree.ElementTree import Element, SubElement

from ..errors import Fault, PeerFault, TrustFault
from ..keys.manifest import Manifest, open_manifest
from ..keys.prekeys import Prekey
from ..keys.servers import MOST_ROLLOVERS
from ..suites.fields import b64, unb64
from .questions import Answer, Refused, Result, Then
from .servers import KEY as KEY
from .servers import Shown

PREKEY = "urn:x-tillie:prekey:0"
PUBSUB = "http://jabber.org/protocol/pubsub"
_OWNER = "http://jabber.org/protocol/pubsub#owner"
_DATA = "jabber:x:data"
NO_ANSWER = "no answer"
_MOST_PREKEYS = 64
_LARGEST = 48 * 1024
_MOST_CREATIONS = 4
# what servers say to an option that they do not know (XEP-0060, 7.1.5)
_OPTIONS_REFUSED = frozenset(
    {"bad-request", "not-acceptable", "resource-constraint", "feature-not-implemented"}
)


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest that is sound in itself (whether it is trusted is another
    question), and what stands beside it, unchecked.

    :param token: JWS as text, empty where there is none.
    :param server: what was shown as the key of the account's domain.
    :param rollovers: what led to the root of the manifest, oldest first (3.10).
    """

    manifest: Manifest
    prekeys: list[Prekey]
    token: str = ""
    server: Shown | None = None
    rollovers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Absent:
    """The address itself says that there is no key."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No usable answer; *text* says what came instead.

    :param silent: nothing came at all.
    """

    text: str
    silent: bool = False


Outcome: TypeAlias = Found | Absent | Failed


class Asker(Protocol):
    """The stream that questions go out on: ``core.session``."""

    def ask(self, kind: str, to: str | None, payload: Element, then: Then) -> None: ...


def look_up(
    asker: Asker, jid: str, to: str | None, then: Callable[[Outcome], None]
) -> None:
    """Read *jid*'s record and prekeys; *to* is None for the own account."""

    def got_key(answer: Answer) -> None:
        outcome = _manifest(answer, jid)
        if not isinstance(outcome, Found):
            then(outcome)
            return
        prekeys(asker, to, outcome, then)

    asker.ask("get", to, _items(KEY), got_key)


def prekeys(
    asker: Asker, to: str | None, found: Found, then: Callable[[Outcome], None]
) -> None:
    """Read the prekeys to what was *found*; without them it stays as it is."""
    asker.ask("get", to, _items(PREKEY), lambda answer: then(_joined(found, answer)))


def _items(node: str) -> Element:
    pubsub = Element(f"{{{PUBSUB}}}pubsub")
    SubElement(pubsub, f"{{{PUBSUB}}}items", {"node": node})
    return pubsub


def _manifest(answer: Answer, jid: str) -> Outcome:
    match answer:
        case Refused(condition="item-not-found"):
            return Absent()
        case Refused(condition=condition):
            return Failed(f"{jid} answered {condition}")
        case Result(payload=payload):
            try:
                items = _item_list(payload, KEY)
                if not items:
                    return Absent()
                return record(_record_of(items), jid)
            except Fault as fault:
                return Failed(f"what {jid} publishes is no valid key: {fault.text}")
    return Failed(f"{jid} did not answer in time", silent=True)


def _item_list(payload: Element | None, node: str) -> list[Element]:
    items = None if payload is None else payload.find(f"{{{PUBSUB}}}items")
    if items is None or items.get("node") != node:
        raise PeerFault("the answer is about something else")
    return items.findall(f"{{{PUBSUB}}}item")


def _record_of(items: list[Element]) -> Element:
    current = [item for item in items if item.get("id") == "current"] or items[-1:]
    found = current[-1].find(f"{{{KEY}}}record")
    if found is None:
        raise PeerFault("there is no record in it")
    return found


def record(element: Element, jid: str) -> Found:
    """Read a ``<record/>`` (13.3), from PEP or a directory; prekeys are not in it.

    :raises PeerFault: a form is wrong, or it is too large.
    :raises TrustFault: the manifest does not verify.
    """
    if sum(len(part) for part in element.itertext()) > _LARGEST:
        raise PeerFault("the record is too large")
    text = element.findtext(f"{{{KEY}}}manifest") or ""
    token = element.findtext(f"{{{KEY}}}token") or ""
    server = Shown.read(element.find(f"{{{KEY}}}server"))
    found = [one.text or "" for one in element.findall(f"{{{KEY}}}rollover")]
    rollovers = tuple(found[:MOST_ROLLOVERS])
    return Found(open_manifest(text.encode(), jid), [], token, server, rollovers)


def _joined(found: Found, answer: Answer) -> Outcome:
    if not isinstance(answer, Result):
        return found
    try:
        items = _item_list(answer.payload, PREKEY)[:_MOST_PREKEYS]
    except PeerFault:
        return found
    return replace(found, prekeys=[key for item in items if (key := _prekey(item))])


def _prekey(item: Element) -> Prekey | None:
    """A prekey, or None: one bad item must not hide the others."""
    element = item.find(f"{{{PREKEY}}}prekey")
    if element is None:
        return None
    number = element.get("number", "")
    if not number.isascii() or not number.isdigit() or len(number) > 10:
        return None
    try:
        return Prekey(
            unb64(element.get("device", "")),
            int(number),
            unb64(element.findtext(f"{{{PREKEY}}}key") or ""),
            unb64(element.findtext(f"{{{PREKEY}}}signature") or ""),
        )
    except (PeerFault, TrustFault):
        return None


# -- publishing -------------------------------------------------------------


def record_item(
    manifest: Manifest,
    token: str = "",
    server: Shown | None = None,
    rollovers: Sequence[str] = (),
) -> Element:
    """The own record; what would make it too large is left out: the domain's
    document can be had from the domain, and who needs an old rollover is late."""
    item = Element(f"{{{PUBSUB}}}item", {"id": "current"})
    made = SubElement(item, f"{{{KEY}}}record")
    SubElement(made, f"{{{KEY}}}manifest").text = manifest.document
    size = len(manifest.document) + len(token)
    kept = list(rollovers)
    while kept and size + sum(map(len, kept)) > _LARGEST:
        del kept[0]
    size += sum(map(len, kept))
    for rollover in kept:
        SubElement(made, f"{{{KEY}}}rollover").text = rollover
    if token:
        SubElement(made, f"{{{KEY}}}token").text = token
    if server is not None and size + len(server.document) <= _LARGEST:
        made.append(server.write())
    return item


def prekey_item(prekey: Prekey, item_id: str) -> Element:
    item = Element(f"{{{PUBSUB}}}item", {"id": item_id})
    element = SubElement(
        item,
        f"{{{PREKEY}}}prekey",
        {"number": str(prekey.number), "device": b64(prekey.device)},
    )
    SubElement(element, f"{{{PREKEY}}}key").text = b64(prekey.public)
    SubElement(element, f"{{{PREKEY}}}signature").text = b64(prekey.signature)
    return item


def publish(
    asker: Asker, node: str, item: Element, then: Callable[[str], None]
) -> None:
    """Publish *item* with an open access model; *then* gets "" or the condition.

    Where the server refuses the options because the node exists with others,
    the node is configured once and the publication repeated (I15); where it does
    not know one of them (ejabberd 23.01), the node is made first, so that nothing
    is ever published under a default that contacts cannot read.
    """
    _Publishing(asker, node, item, then).begin()


class _Publishing:
    """One publication, question by question; see :func:`publish`."""

    def __init__(
        self, asker: Asker, node: str, item: Element, then: Callable[[str], None]
    ) -> None:
        self._asker = asker
        self._node = node
        self._item = item
        self._then = then
        self._options = _node_options(node)
        self._creations = 0

    def begin(self) -> None:
        self._ask(_publish(self._node, self._item, self._options), self._answered)

    def _ask(self, payload: Element, then: Callable[[Answer], None]) -> None:
        self._asker.ask("set", None, payload, then)

    def _answered(self, answer: Answer) -> None:
        condition = answer.condition if isinstance(answer, Refused) else ""
        if condition == "conflict":
            self._configure()
        elif condition in _OPTIONS_REFUSED:
            self._create()
        else:
            self._then(_condition(answer))

    def _create(self) -> None:
        self._creations += 1
        self._ask(_create(self._node, self._options), self._created)

    def _created(self, answer: Answer) -> None:
        if isinstance(answer, Result):
            self._publish_alone(answer)
        elif isinstance(answer, Refused) and answer.condition == "conflict":
            self._configure()
        elif isinstance(answer, Refused) and self._creations < _MOST_CREATIONS:
            # ejabberd's database fails where two accounts make nodes at once
            self._create()
        else:
            self._then(_condition(answer))

    def _configure(self) -> None:
        self._ask(_configure(self._node, self._options), self._publish_alone)

    def _publish_alone(self, _: Answer) -> None:
        payload = _publish(self._node, self._item, None)
        self._ask(payload, lambda answer: self._then(_condition(answer)))


def retract(asker: Asker, node: str, item_id: str, then: Callable[[str], None]) -> None:
    """Delete an item of an own node, for instance a removed device's prekey."""
    pubsub = Element(f"{{{PUBSUB}}}pubsub")
    element = SubElement(pubsub, f"{{{PUBSUB}}}retract", {"node": node})
    SubElement(element, f"{{{PUBSUB}}}item", {"id": item_id})
    asker.ask("set", None, pubsub, lambda answer: then(_condition(answer)))


def _condition(answer: Answer) -> str:
    match answer:
        case Result():
            return ""
        case Refused(condition=condition):
            return condition
    return NO_ANSWER


def _node_options(node: str) -> dict[str, str]:
    options = {
        "pubsub#access_model": "open",
        "pubsub#persist_items": "true",
        "pubsub#send_last_published_item": "never",
    }
    # a number, not "max": Prosody before 0.12 and ejabberd before 21.12 know none
    options["pubsub#max_items"] = "1" if node == KEY else str(_MOST_PREKEYS)
    return options


def _publish(node: str, item: Element, options: dict[str, str] | None) -> Element:
    pubsub = Element(f"{{{PUBSUB}}}pubsub")
    SubElement(pubsub, f"{{{PUBSUB}}}publish", {"node": node}).append(item)
    if options is not None:
        wrapper = SubElement(pubsub, f"{{{PUBSUB}}}publish-options")
        wrapper.append(_form(f"{PUBSUB}#publish-options", options))
    return pubsub


def _create(node: str, options: dict[str, str]) -> Element:
    pubsub = Element(f"{{{PUBSUB}}}pubsub")
    SubElement(pubsub, f"{{{PUBSUB}}}create", {"node": node})
    configure = SubElement(pubsub, f"{{{PUBSUB}}}configure")
    configure.append(_form(f"{PUBSUB}#node_config", options))
    return pubsub


def _configure(node: str, options: dict[str, str]) -> Element:
    pubsub = Element(f"{{{_OWNER}}}pubsub")
    configure = SubElement(pubsub, f"{{{_OWNER}}}configure", {"node": node})
    configure.append(_form(f"{PUBSUB}#node_config", options))
    return pubsub


def _form(form_type: str, values: dict[str, str]) -> Element:
    form = Element(f"{{{_DATA}}}x", {"type": "submit"})
    hidden = SubElement(
        form, f"{{{_DATA}}}field", {"var": "FORM_TYPE", "type": "hidden"}
    )
    SubElement(hidden, f"{{{_DATA}}}value").text = form_type
    for name, value in values.items():
        field = SubElement(form, f"{{{_DATA}}}field", {"var": name})
        SubElement(field, f"{{{_DATA}}}value").text = value
    return form
