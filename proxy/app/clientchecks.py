"""``tillie gate check``, clients' ports: TLS, the gate's proof, every road in.

Each place that DNS (or ``--server``) names is looked at by itself, each road on a
connection of its own.  No account is named and no password sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from OpenSSL import SSL

from ..core.servers import Shown
from ..core.streams import STREAM_CONDITIONS, STREAMS, read_error
from ..errors import EnvFault, Fault, PeerFault, TrustFault
from ..gate.names import AUTH, ERRORS, KEY
from ..gate.outside import (
    NO_MECHANISM,
    Answer,
    Finding,
    Road,
    judge_road,
    offers_keys,
    roads,
    sasl_refusal,
)
from ..keys.handshake import (
    Channel,
    Presentation,
    check_presented,
    clock_differs,
    present,
)
from ..keys.identity import DevicePrivate
from ..keys.servers import ServerDocument, open_server
from ..keys.tokens import in_time
from ..net.connector import Connector
from ..net.dns import Resolver
from ..net.tls import client_context
from ..net.visit import Visit
from ..suites.fields import b64, unb64
from ..wire.stanza import Stanza
from .checking import Asked, Place, day
from .statechecks import State, ask

_DAYS_LEFT = 14
_DAYS_DUE = 150
"""A gate renews its document half a year before it is over."""
_WHY_NOT = "is its registry read-only, its clock right? Its log says why"


@dataclass(slots=True)
class Seen:
    """What the places of one domain showed.

    :param document: the domain's own, once it was proved; None until then.
    :param states: what the gate at each said of itself.
    """

    document: ServerDocument | None = None
    states: list[State] = field(default_factory=list)


class ClientChecks:
    """The checks of one domain on its clients' places."""

    def __init__(self, reactor: Any, asked: Asked, resolver: Resolver) -> None:
        self.seen = Seen()
        self._reactor = reactor
        self._asked = asked
        self._resolver = resolver

    async def of(self, place: Place) -> list[Finding]:
        """Everything about one place."""
        visit = Visit(self._reactor, seconds=self._asked.seconds)
        try:
            features = await self._enter(visit, place)
            found = [self._tls(visit, place)]
        except Fault as fault:
            return [Finding("tls", place.name, False, fault.text, fault.hint)]
        else:
            found.append(await self._old_tls(place))
            found += await self._gate(visit, features, place)
            return found
        finally:
            visit.close()

    async def kind(self, place: Place) -> Place:
        """*place*, with direct TLS if that is what is spoken there."""
        direct = replace(place, direct=True)
        for one in (place, direct):
            visit = Visit(self._reactor, seconds=min(self._asked.seconds, 5.0))
            try:
                await self._enter(visit, one)
            except Fault:
                continue
            else:
                return one
            finally:
                visit.close()
        return place

    # -- connecting ------

    def _connector(self, place: Place, context: SSL.Context | None = None) -> Connector:
        domain = self._asked.domain
        return Connector(
            self._reactor,
            self._resolver,
            servers={domain: (place.address, place.port)},
            tls={domain: "direct" if place.direct else "starttls"},
            trust_anchors=self._asked.ca,
            timeout=self._asked.seconds,
            context=context,
        )

    async def _enter(
        self, visit: Visit, place: Place, context: SSL.Context | None = None
    ) -> Stanza:
        """Connect, and the features behind TLS; raises EnvFault."""
        domain = self._asked.domain
        await visit.connect(self._connector(place, context), domain)
        if not place.direct:
            await visit.open(domain)
            await visit.start_tls()
        return await visit.open(domain)

    # -- TLS ------

    def _tls(self, visit: Visit, place: Place) -> Finding:
        certificate = visit.certificate()
        ends = certificate.not_valid_after_utc.timestamp()
        assert visit.facts is not None
        text = f"{visit.facts.version}, certificate valid until {day(ends)}"
        if visit.facts.version != "TLSv1.3":
            hint = "a gate speaks TLS 1.3 only: is this one?"
            return Finding("tls", place.name, False, text, hint)
        soon = ends - time.time() < _DAYS_LEFT * 24 * 3600
        hint = "renew the certificate, then send the gate SIGHUP" if soon else ""
        return Finding("tls", place.name, True, text, hint)

    async def _old_tls(self, place: Place) -> Finding:
        context = client_context(self._asked.ca)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        visit = Visit(self._reactor, seconds=self._asked.seconds)
        try:
            await self._enter(visit, place, context)
        except Fault:
            return Finding("old-tls", place.name, True, "TLS 1.2 is refused")
        finally:
            visit.close()
        return Finding(
            "old-tls",
            place.name,
            False,
            "TLS 1.2 is spoken, on which a gate cannot be bound to its connection",
            "something in front of the gate ends TLS, or this is no gate",
        )

    # -- the gate ------

    async def _gate(
        self, visit: Visit, features: Stanza, place: Place
    ) -> list[Finding]:
        offered = offers_keys(features)
        if offered is None:
            return [
                Finding(
                    "gate",
                    place.name,
                    False,
                    "no gate answers here: whoever knows a password gets in",
                    "let the server listen on loopback only (tillie gate config), and"
                    " the gate on this port",
                )
            ]
        nonce, policy = offered
        found = [self._policy(policy, place)]
        found += await self._proof(visit, nonce, place)
        found += await self._roads(features, place, policy)
        return found

    def _policy(self, policy: str, place: Place) -> Finding:
        if policy == "keys-only":
            return Finding("policy", place.name, True, "keys-only")
        return Finding(
            "policy",
            place.name,
            False,
            f"{policy}: who has no key is let in",
            "for migration only; tillie gate accounts --without-key lists who would"
            " be locked out by keys-only",
        )

    async def _proof(self, visit: Visit, nonce: str, place: Place) -> list[Finding]:
        try:
            document, gate_time = await self._presented(visit, nonce)
        except (EnvFault, PeerFault, TrustFault) as fault:
            return [Finding("proof", place.name, False, fault.text, fault.hint)]
        found = [
            Finding("proof", place.name, True, "the gate proved that it has the key")
        ]
        found += self._document(document, place)
        self.seen.states.append(await ask(visit, place, document, _now()))
        if clock_differs(gate_time, _now()):
            found.append(
                Finding(
                    "clock",
                    place.name,
                    False,
                    "the gate's clock and this machine's are over 5 minutes apart",
                    "tokens are refused by whoever sees them out of time: use NTP",
                )
            )
        return found

    async def _presented(self, visit: Visit, nonce: str) -> tuple[ServerDocument, int]:
        """Show a key of the moment; what the gate shows for it, verified (14.4).

        :raises Fault: it did not prove itself.
        """
        domain = self._asked.domain
        facts = visit.facts
        if facts is None or facts.login is None:
            raise TrustFault("there is no TLS 1.3 to bind a proof to")
        channel = Channel(domain, unb64(nonce), facts.login)
        device = DevicePrivate.generate()
        shown = Presentation(device.public, None)
        signature = b64(present(channel, device, None))
        visit.send(
            f"<present xmlns='{AUTH}' device='{b64(device.public)}'>{signature}"
            "</present>".encode()
        )
        answer = await visit.read()
        if (answer.ns, answer.name) == (STREAMS, "error"):
            raise _refused(answer)
        if (answer.ns, answer.name) != (AUTH, "presented"):
            raise PeerFault(f"a presentation was answered with <{answer.name}/>")
        tree = answer.tree()
        server = Shown.read(tree.find(f"{{{KEY}}}server"))
        text = answer.attrs.get("time", "")
        if server is None or not (text.isascii() and text.isdigit()):
            raise PeerFault("the gate's answer lacks its document or its time")
        document = open_server(server.document.encode(), domain)
        proof = unb64(tree.findtext(f"{{{AUTH}}}proof") or "")
        check_presented(channel, shown, document.keys, int(text[:16]), proof)
        return document, int(text[:16])

    def _document(self, document: ServerDocument, place: Place) -> Iterator[Finding]:
        known, self.seen.document = self.seen.document, document
        if known is not None and known.keys != document.keys:
            yield Finding(
                "server-key",
                place.name,
                False,
                "another key than at the place before: two gates that do not share"
                " their key files",
                "copy the key files of one to the other (docs/gate.md)",
            )
            return
        yield self._server_key(document, place)

    def _server_key(self, document: ServerDocument, place: Place) -> Finding:
        check, fingerprint = "server-key", document.keys.fingerprint
        until = day(document.expires / 1000)
        now = _now()
        if self._asked.server_key not in (None, fingerprint):
            return Finding(
                check,
                place.name,
                False,
                f"another key than the one that was named: {fingerprint.hex()}",
                "was it rotated (tillie gate rotate)? If not, somebody else answers"
                " here, or the gate has lost its key file",
            )
        if not in_time(document.issued, document.expires, now):
            return Finding(
                check,
                place.name,
                False,
                f"valid until {until}, which is over: every proxy refuses it",
                f"a gate renews it by itself: {_WHY_NOT}",
            )
        if document.expires - now < _DAYS_DUE * 24 * 3600 * 1000:
            return Finding(
                check,
                place.name,
                False,
                f"valid until {until} only, and the gate does not renew it",
                _WHY_NOT,
            )
        text = f"{fingerprint.hex()}, valid until {until}"
        if document.next is not None:
            text += "; the next key is announced"
        return Finding(check, place.name, True, text)

    # -- roads in ------

    async def _roads(
        self, features: Stanza, place: Place, policy: str
    ) -> list[Finding]:
        if policy != "keys-only":
            text = "the policy lets in who has no key"
            return [Finding("no-key", place.name, None, text)]
        words, found = "", []
        for road in roads(features):
            answer = await self._try(road, place)
            ok, text = judge_road(road, answer, words)
            found.append(Finding("no-key", place.name, ok, text))
            if road.name.endswith(NO_MECHANISM) and ok and answer.stanza is not None:
                words = sasl_refusal(answer.stanza)[1]
        return found

    async def _try(self, road: Road, place: Place) -> Answer:
        visit = Visit(self._reactor, seconds=self._asked.seconds)
        try:
            await self._enter(visit, place)
            visit.send(road.data)
            return Answer(await visit.read())
        except Fault as fault:
            return Answer(None, fault.text)
        finally:
            visit.close()


def _refused(answer: Stanza) -> Fault:
    if f"{{{ERRORS}}}bad-proof" in answer.children:
        return TrustFault(
            "the gate saw another TLS connection than this one",
            hint="something in front of the gate ends TLS: let it pass TCP through"
            " (with PROXY, --proxy-from), or take it away",
        )
    condition, _, text = read_error(answer.tree(), STREAM_CONDITIONS)
    return PeerFault(f"the gate ended the stream: {condition} “{text}”")


def _now() -> int:
    return int(time.time() * 1000)
