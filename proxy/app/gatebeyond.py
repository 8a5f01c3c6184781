"""What of a gate's configuration concerns other domains and what is said (16, 17)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from ..errors import ConfigFault
from ..gate.enforce import Enforcement, Inbound, Outbound
from .addresses import Address, address_of, is_loopback, resolver_of
from .sources import Origin, Sources, as_path

if TYPE_CHECKING:
    from ..net.borders import Borders
    from ..net.registry import RegistryWorker
    from ..net.signer import Signer

_LONGEST_SECRET: Final = 1_024


@dataclass(frozen=True, kw_only=True)
class Beyond:
    """What a gate does beyond its clients' streams.

    :param component: the server's port for components, None for no directory.
    :param secret: of the components ``keys.DOMAIN``.
    :param enforcement: what may be said in clear.
    :param probe: whether other domains' servers have to show a certificate.
    :param anchors: PEM file of authorities beside the system's, for that.
    :param resolver: DNS server to ask, None for the system's.
    """

    component: Address | None = None
    secret: bytes = field(default=b"", repr=False)
    enforcement: Enforcement = field(default_factory=Enforcement)
    probe: bool = True
    anchors: Path | None = None
    resolver: Address | None = None

    def directories(self, domains: tuple[str, ...]) -> dict[str, str | None]:
        """What each domain's document says of its directory (13.2)."""
        there = self.component is not None
        return {domain: f"keys.{domain}" if there else None for domain in domains}

    @property
    def warnings(self) -> list[str]:
        if self.component is None:
            return [
                "there is no directory (--component): others cannot look up keys of"
                " these domains, nor can it be learned who elsewhere has none"
            ]
        if not is_loopback(self.component.host):
            return [
                f"the server's port for components is at {self.component}, not on this"
                " machine: what is asked and answered crosses that network in clear"
            ]
        return []


def beyond_of(sources: Sources) -> Beyond:
    """:raises ConfigFault: a value cannot be used, or one of two is missing."""
    component, secret = _component(sources)
    anchors = sources.text("between-ca")
    return Beyond(
        component=component,
        secret=secret,
        enforcement=Enforcement(
            cast(
                Outbound,
                sources.word("enforce-outbound", get_args(Outbound), "keyless"),
            ),
            cast(Inbound, sources.word("enforce-inbound", get_args(Inbound), "pass")),
        ),
        probe=sources.flag("between-probe", default=True),
        anchors=as_path(*anchors) if anchors else None,
        resolver=resolver_of(sources),
    )


def _component(sources: Sources) -> tuple[Address | None, bytes]:
    where = sources.text("component")
    file = sources.text("component-secret-file")
    if not where and not file:
        return None, b""
    if not where or not file:
        missing = "component-secret-file" if where else "component"
        raise ConfigFault(
            f"the directory needs --{missing} too",
            hint="--component 127.0.0.1:5347 --component-secret-file FILE",
        )
    return address_of(*where), _secret(*file)


def _secret(text: str, origin: Origin) -> bytes:
    path = as_path(text, origin)
    try:
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise origin.fault(f"{path} cannot be read: {error.strerror}") from error
    if not secret or len(secret) > _LONGEST_SECRET:
        raise origin.fault(
            f"{path} holds no secret", "one line, as in the server's configuration"
        )
    if path.stat().st_mode & 0o077:
        raise origin.fault(f"others can read {path}", f"chmod 600 {path}")
    return secret


def borders(
    reactor: Any,
    domains: tuple[str, ...],
    beyond: Beyond,
    worker: RegistryWorker,
    signer: Signer,
) -> Borders:
    """Put together what asks and answers other domains; nothing is connected yet.

    :raises ConfigFault: a file with certificates cannot be used.
    """
    from ..gate.between import Domains
    from ..gate.directory import Directory
    from ..net.borders import Borders
    from ..net.component import Component
    from ..net.connector import Connector
    from ..net.dns import Resolver
    from ..net.registry import wall_clock
    from ..net.s2sprobe import EACH_SECONDS, Prober

    prober = None
    if beyond.probe:
        connector = Connector(
            reactor,
            Resolver(reactor, beyond.resolver),
            servers={},
            tls={},
            trust_anchors=beyond.anchors,
            timeout=EACH_SECONDS,
            role="server",
        )
        known = Domains(domains, wall_clock)
        prober = Prober(reactor, connector, domains[0], known)
    made = Borders(reactor, prober)
    for domain in domains if beyond.component is not None else ():
        assert beyond.component is not None
        directory = Directory(
            domain,
            f"keys.{domain}",
            lambda domain=domain: signer.document(domain),  # type: ignore[misc]
            wall_clock,
            siblings=frozenset(domains),
        )
        made.components[domain] = Component(
            reactor,
            directory,
            beyond.component,
            beyond.secret,
            ask=worker.ask,
            sign=signer.sign,
        )
    return made
