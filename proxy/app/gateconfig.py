"""The configuration of ``tillie gate run``: the same four sources as ``tillie run``.

In the TOML file the keys stand in the table ``[gate]``.  ``policy`` is a word
there, or rows ``[[gate.policy]]``, of which the first that matches decides.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast, get_args

from ..errors import ConfigFault, PeerFault
from ..gate.policy import Network, Policies, Policy, Rule
from ..wire.jid import Jid
from .addresses import Address, Listener, address_of, is_loopback, listeners_of
from .config import LogLevel
from .gatebeyond import Beyond, beyond_of
from .sources import METRICS_SWITCH, Origin, Sources, as_path, as_text, slips

if TYPE_CHECKING:
    from ..net.proxyheader import Version

STRANGERS = 8_192
STRANGERS_EACH = 4_096
_POLICIES = ("keys-only", "optional", "hosted")


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Everything that ``tillie gate run`` was told, validated.

    :param domains: prepared, in the order they were given.
    :param backends: where the server of each is.
    :param certificates: certificate and key file of each.
    :param store: URL of the registry, empty for the file in the state folder.
    :param proxy_out: the PROXY header that servers get.
    :param proxy_in: networks whose connections begin with one.
    :param metrics: where ``/metrics`` and ``/healthz`` are served, None for nowhere.
    :param beyond: other domains, and what may be said.
    :param again: reads the same sources once more (SIGHUP); raises as
        :func:`load` does, and then this configuration stays in force.
    """

    domains: tuple[str, ...]
    listeners: tuple[Listener, ...]
    backends: Mapping[str, Address]
    certificates: Mapping[str, tuple[Path, Path]]
    policies: Policies
    store: str
    state: Path
    proxy_out: Version | None
    proxy_in: tuple[Network, ...]
    metrics: Address | None
    beyond: Beyond
    strangers: int
    strangers_each: int
    log_level: LogLevel
    log_json: bool
    warnings: tuple[str, ...]
    again: Callable[[], GateConfig] = field(repr=False, compare=False)


def load(options: Mapping[str, object], environ: Mapping[str, str]) -> GateConfig:
    """Bring the four sources together; arguments and faults as ``config.load``'s."""
    sources = Sources(options, environ, "gate")
    domains = _domains(sources)
    listeners = listeners_of(sources, public=True)
    if not listeners:
        raise ConfigFault(
            "there is nothing to listen on",
            hint="--listen 0.0.0.0:5222 takes clients that use STARTTLS",
        )
    backends = dict(_backends(sources, domains))
    beyond = beyond_of(sources)
    return GateConfig(
        domains=domains,
        listeners=listeners,
        backends=MappingProxyType(backends),
        certificates=MappingProxyType(_certificates(sources, domains)),
        policies=_policies(sources, domains),
        store=store[0] if (store := sources.text("store")) else "",
        state=gate_state(sources),
        proxy_out=_proxy_out(sources),
        proxy_in=tuple(_networks(sources, "proxy-from")),
        metrics=_metrics(sources),
        beyond=beyond,
        strangers=_number(sources, "strangers", STRANGERS),
        strangers_each=_number(sources, "strangers-each", STRANGERS_EACH),
        log_level=cast(LogLevel, sources.word("log-level", get_args(LogLevel), "info")),
        log_json=sources.flag("log-json", default=False),
        warnings=(*_warnings(sources, backends), *beyond.warnings),
        again=partial(load, dict(options), dict(sources.environ)),
    )


def gate_state(sources: Sources) -> Path:
    """The folder in which a gate keeps its keys and, by default, its registry."""
    found = sources.text("state")
    if found:
        return as_path(*found)
    import platformdirs

    default = platformdirs.user_state_path("tillie") / "gate"
    if not default.is_absolute():
        raise ConfigFault(
            "there is no home folder to keep the domain's key in",
            hint="name a folder with --state or TILLIE_STATE",
        )
    return default


# -- domains, and what each has ----------------------------------------------


def _domains(sources: Sources) -> tuple[str, ...]:
    texts, origin = sources.texts("domain") or ((), Origin("--domain", "option"))
    if not texts:
        raise ConfigFault(
            "no domain was named",
            hint="--domain example.org, as in the addresses of the accounts",
        )
    domains = tuple(_domain(text, origin) for text in texts)
    if len(set(domains)) != len(domains):
        raise origin.fault("a domain is there twice")
    return domains


def _domain(text: str, origin: Origin) -> str:
    try:
        jid = Jid.parse(text)
    except PeerFault as fault:
        raise origin.fault(f'"{text}" is not a domain') from fault
    if str(jid) != jid.domain:
        raise origin.fault(f'"{text}" is not a domain')
    return jid.domain


def _for_domains(
    sources: Sources, name: str, domains: tuple[str, ...]
) -> tuple[dict[str, str], Origin]:
    """Texts ``[D=]REST`` by domain; one without ``D=`` is for all that have none."""
    texts, origin = sources.texts(name) or ((), Origin(f"--{name}", "option"))
    found: dict[str, str] = {}
    general: str | None = None
    for text in texts:
        written, equals, rest = text.partition("=")
        domain = _named(written, domains, origin) if equals else None
        if domain is None:
            if general is not None:
                raise origin.fault(
                    f'"{text}" names none of the domains: {", ".join(domains)}',
                    f"for example {domains[0]}={text}",
                )
            general = text
        elif domain in found:
            raise origin.fault(f"{domain} is there twice")
        else:
            found[domain] = rest
    if general is not None:
        found = {domain: found.get(domain, general) for domain in domains}
    return found, origin


def _named(text: str, domains: tuple[str, ...], origin: Origin) -> str | None:
    """The domain before ``=``; None where that is part of a path."""
    try:
        domain = Jid.parse(text).domain
    except PeerFault:
        return None
    if domain not in domains:
        raise origin.fault(f"{text} is no domain of this gate")
    return domain


def _backends(
    sources: Sources, domains: tuple[str, ...]
) -> Iterator[tuple[str, Address]]:
    found, origin = _for_domains(sources, "backend", domains)
    for domain in domains:
        if domain not in found:
            raise ConfigFault(
                f"it is not said where the server of {domain} is",
                hint=f"--backend {domain}=127.0.0.1:5222",
            )
        yield domain, address_of(found[domain], origin)


def _certificates(
    sources: Sources, domains: tuple[str, ...]
) -> dict[str, tuple[Path, Path]]:
    certificates, at_certificate = _for_domains(sources, "cert", domains)
    keys, at_key = _for_domains(sources, "key", domains)
    found = {}
    for domain in domains:
        if domain not in certificates or domain not in keys:
            raise ConfigFault(
                f"{domain} has no certificate or no key",
                hint=f"--cert {domain}=FILE --key {domain}=FILE, both PEM",
            )
        found[domain] = (
            as_path(certificates[domain], at_certificate),
            as_path(keys[domain], at_key),
        )
    return found


# -- policies ----------------------------------------------------------------


def _policies(sources: Sources, domains: tuple[str, ...]) -> Policies:
    for value, origin in sources.layers("policy"):
        if isinstance(value, list):
            rows = [cast(Mapping[str, object], row) for row in value]
            return Policies(tuple(_rule(row, origin, domains) for row in rows))
        return Policies(default=_policy(as_text(value, origin), origin))
    return Policies()


def _rule(row: Mapping[str, object], origin: Origin, domains: tuple[str, ...]) -> Rule:
    if "policy" not in row:
        raise origin.fault("a row does not say which policy holds")
    domain = as_text(row["domain"], origin) if "domain" in row else ""
    if domain and (domain := _domain(domain, origin)) not in domains:
        raise origin.fault(f"{domain} is no domain of this gate")
    network = as_text(row["network"], origin) if "network" in row else None
    return Rule(
        policy=_policy(as_text(row["policy"], origin), origin),
        domain=domain,
        account=as_text(row["account"], origin).lower() if "account" in row else "",
        network=_network(network, origin) if network is not None else None,
    )


def _policy(text: str, origin: Origin) -> Policy:
    word = text.lower()
    if word == "hosted":
        raise origin.fault(
            "keys that the server holds for accounts are not built yet",
            "take keys-only, or optional while people move over",
        )
    if word not in _POLICIES:
        raise origin.fault(f'"{text}" is none of: keys-only, optional')
    return cast(Policy, word)


# -- the rest ----------------------------------------------------------------


def _networks(sources: Sources, name: str) -> Iterator[Network]:
    texts, origin = sources.texts(name) or ((), Origin(name, "file"))
    for text in texts:
        yield _network(text, origin)


def _network(text: str, origin: Origin) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise origin.fault(
            f'"{text}" is not a network', "for example 192.0.2.0/24, or 2001:db8::/32"
        ) from None


def _proxy_out(sources: Sources) -> Version | None:
    word = sources.word("proxy-protocol", ("v1", "v2", "none"), "none")
    return None if word == "none" else cast("Version", word)


def _metrics(sources: Sources) -> Address | None:
    found = sources.text("metrics")
    if not found:
        return None
    address = address_of(*found, lowest=0)
    public = sources.flag(METRICS_SWITCH, default=False)
    if not public and not is_loopback(address.host):
        raise ConfigFault(
            f"{found[1].name}: {address} can be reached from other machines",
            hint=f"take 127.0.0.1, or say that it must be with --{METRICS_SWITCH}",
        )
    return address


def _number(sources: Sources, name: str, default: int) -> int:
    for value, origin in sources.layers(name):
        text = str(value)
        if isinstance(value, bool) or not (text.isascii() and text.isdigit()):
            raise origin.fault("a whole number is wanted here")
        if not 1 <= int(text[:8]) <= 1_000_000:
            raise origin.fault("a number from 1 to 1000000 is wanted here")
        return int(text)
    return default


def _warnings(sources: Sources, backends: Mapping[str, Address]) -> Iterator[str]:
    for domain, address in backends.items():
        if not is_loopback(address.host):
            yield (
                f"the server of {domain} is at {address}, not on this machine:"
                " passwords and what is not sealed cross that network in clear"
            )
    if sources.path and sources.path.stat().st_mode & 0o002:
        yield f"everyone on this machine can change {sources.path}"
    yield from slips(sources.environ)
