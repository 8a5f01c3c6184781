"""How a stream begins: headers, TLS, features (RFC 6120, 4 and 5; clause 14.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..core.streams import COMPRESSION, SASL, TLS, header, speaks_xmpp
from ..errors import PeerFault, TrustFault
from ..keys.handshake import NONCE_SIZE, Channel
from ..suites.entropy import token as random_bytes
from ..wire.jid import Jid
from ..wire.splice import spliced
from . import names
from .effects import Reach, StartTls
from .names import SASL2
from .phases import Phase

if TYPE_CHECKING:
    from ..wire.framing import Opened
    from ..wire.stanza import Stanza
    from .door import Door
    from .line import Line

_TAKEN: Final = frozenset(
    {
        f"{{{TLS}}}starttls",
        "{http://jabber.org/features/compress}compression",
        f"{{{COMPRESSION}}}compression",
        "{http://jabber.org/features/iq-auth}auth",
    }
)
_ROADS: Final = frozenset(
    {
        f"{{{SASL}}}mechanisms",
        f"{{{SASL2}}}authentication",
        "{http://jabber.org/features/iq-register}register",
    }
)
_STARTTLS: Final = (
    f"<stream:features><starttls xmlns='{TLS}'><required/></starttls></stream:features>"
).encode()
_PROCEED: Final = f"<proceed xmlns='{TLS}'/>".encode()
_LANG: Final = "{http://www.w3.org/XML/1998/namespace}lang"


class Opening:
    """The headers and features of one connection.

    :ivar greeting: the header that the server gets.
    """

    def __init__(self, line: Line, door: Door) -> None:
        self.greeting = b""
        self._line = line
        self._door = door
        self._exporter = b""
        self._certified = ""

    def on_starttls(self, stanza: Stanza, *, clean: bool) -> None:
        """The client's answer to the features before TLS.

        :param clean: whether nothing was sent behind it (TLS-02, TLS-03).
        """
        line = self._line
        if (stanza.ns, stanza.name) != (TLS, "starttls"):
            line.end("policy-violation", "TLS comes first: send <starttls/>")
        elif not clean:
            line.smuggled()
        else:
            line.to_client(_PROCEED)
            line.opened = False
            line.handshake()
            line.effects.append(StartTls(line.domain))

    def secured(self, exporter: bytes, domain: str) -> None:
        """TLS is up, with the certificate of *domain*."""
        self._exporter, self._certified = exporter, domain
        self._line.phase = Phase.HEADER

    # -- the client's header ------

    def on_client_header(self, opened: Opened) -> None:
        """Take the domain that it names, and go on (RFC 6120, 4.7)."""
        line = self._line
        if not speaks_xmpp(opened.attrs.get("version")):
            line.end("unsupported-version", "XMPP 1.0 is needed here")
            return
        to = opened.attrs.get("to")
        if not to:
            line.end("improper-addressing", "the stream header has no 'to'")
            return
        domain = _domain(to)
        if domain is None or not self._serves(domain):
            line.end("host-unknown", "the stream header's 'to' is no domain of here")
            return
        line.domain = domain
        self._begin(opened)

    def _serves(self, domain: str) -> bool:
        """Whether a stream of this connection may be for *domain* (TLS-14)."""
        if domain not in self._line.world.domains:
            return False
        return domain == (self._line.domain or domain) == (self._certified or domain)

    def _begin(self, opened: Opened) -> None:
        line = self._line
        if line.phase is Phase.CLEAR_HEADER:
            line.to_client(line.own_header() + _STARTTLS)
            line.opened = True
            line.phase = Phase.STARTTLS
            return
        self.greeting = header(
            to=line.domain,
            from_=opened.attrs.get("from"),
            lang=opened.attrs.get(_LANG),
        )
        if line.phase is Phase.RESTART:
            line.phase = Phase.FEATURES
            line.to_backend(self.greeting)
            return
        try:
            nonce = random_bytes(NONCE_SIZE)
            line.channel = Channel(line.domain, nonce, self._exporter)
        except TrustFault:
            line.drop()
            return
        line.phase = Phase.BACKEND
        line.effects.append(Reach(line.domain))

    # -- the server's ------

    def on_server_header(self, opened: Opened) -> None:
        """Give the client a header that says the same and declares nothing else."""
        line = self._line
        line.opened = True
        line.to_client(
            header(
                to=opened.attrs.get("to"),
                from_=opened.attrs.get("from") or line.domain,
                stream_id=opened.attrs.get("id"),
                lang=opened.attrs.get(_LANG),
            )
        )

    def on_features(self, stanza: Stanza) -> None:
        """Pass features on, byte for byte but for what has no place here (14.2)."""
        line = self._line
        added = b""
        if line.phase is Phase.BACKEND:
            if _ROADS.isdisjoint(stanza.children):
                line.out_of_step(names.BACKEND_CLOSED)
                return
            added = self._door.announced()
            line.phase = Phase.DOOR
        elif line.phase is Phase.FEATURES:
            line.phase = Phase.BINDING
        line.to_client(spliced(stanza, _TAKEN.__contains__, added))


def _domain(text: str) -> str | None:
    try:
        jid = Jid.parse(text)
    except PeerFault:
        return None
    return jid.domain if str(jid) == jid.domain else None
