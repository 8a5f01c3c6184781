"""Read, validate and freeze the configuration; unknown keys are refused.

Four sources, the first that has a value wins: an option of the command line, its
``TILLIE_*`` variable, its key in the one TOML file, the default.  A key is the
option's long name without the dashes in front (``listen-tls``; ``listen_tls`` is
taken too), a variable is the same in capitals (``TILLIE_LISTEN_TLS``).  Servers
are merged domain by domain, other lists replace each other whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias, cast, get_args

from ..errors import ConfigFault
from .addresses import (
    Address,
    Listener,
    address_of,
    is_loopback,
    listeners_of,
    plain,
    resolver_of,
)
from .sources import (
    PUBLIC_SWITCH,
    Origin,
    Sources,
    as_path,
    as_text,
    as_texts,
    as_word,
    slips,
)

Tls: TypeAlias = Literal["starttls", "direct", "off"]
Unknown: TypeAlias = Literal["ask", "require"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


_DEFAULT = (Listener(Address("127.0.0.1", 5222), "starttls"),)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that ``tillie run`` was told, validated.

    :param listeners: *listen* and *listen_tls* in the order they were given.
    :param state: absolute path of the state folder, which may not exist yet.
    :param resolver: DNS server to ask, None for the system's.
    :param servers: prepared domain to where its server is, in place of DNS.
    :param tls: prepared domain to how its server is spoken to; ``off`` is there
        only with a loopback address in *servers*.
    :param ca: absolute path of a PEM file with further trust anchors.
    :param clear: lower-case shell patterns over bare JIDs that may get plaintext.
    :param require: such patterns whose owners never get plaintext; where both
        match, this one holds.
    :param unknown: what holds for a contact without a key and without a pattern.
    :param fallback: put the constant body of XEP-0428 beside every seal.
    :param warnings: one line each, to be shown at every start.
    :param again: reads the same sources once more (SIGHUP); raises as
        :func:`load` does, and then this configuration stays in force.
    """

    listen: tuple[Address, ...]
    listen_tls: tuple[Address, ...]
    listeners: tuple[Listener, ...]
    state: Path
    resolver: Address | None
    servers: Mapping[str, Address]
    tls: Mapping[str, Tls]
    ca: Path | None
    log_level: LogLevel
    log_json: bool
    clear: tuple[str, ...]
    require: tuple[str, ...]
    unknown: Unknown
    fallback: bool
    warnings: tuple[str, ...]
    again: Callable[[], Config] = field(repr=False, compare=False)


def load(options: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Bring the four sources together.

    :param options: option names with underscores to what the command line gave
        (None or an empty sequence where it gave nothing); ``listen_order`` may
        name ``listen`` and ``listen_tls`` in the order of their occurrences.
    :param environ: the process's environment.
    :raises UsageFault: an option's value has the wrong form.
    :raises ConfigFault: anything else is wrong; text and hint are for a person.
    """
    sources = Sources(options, environ)
    public = sources.flag(PUBLIC_SWITCH, default=False)
    listeners = listeners_of(sources, public=public) or _DEFAULT
    servers, tls = _servers(sources)
    return Config(
        listen=tuple(one.address for one in listeners if one.security == "starttls"),
        listen_tls=tuple(one.address for one in listeners if one.security == "tls"),
        listeners=listeners,
        state=_state(sources),
        resolver=resolver_of(sources),
        servers=MappingProxyType(servers),
        tls=MappingProxyType(tls),
        ca=_ca(sources),
        log_level=cast(LogLevel, sources.word("log-level", get_args(LogLevel), "info")),
        log_json=sources.flag("log-json", default=False),
        clear=_patterns(sources, "clear"),
        require=_patterns(sources, "require"),
        unknown=cast(Unknown, sources.word("unknown", get_args(Unknown), "ask")),
        fallback=sources.flag("fallback", default=True),
        warnings=tuple(_warnings(sources, listeners, tls)),
        again=partial(load, dict(options), dict(sources.environ)),
    )


def state_folder(options: Mapping[str, object], environ: Mapping[str, str]) -> Path:
    """Find the state folder as :func:`load` does, and judge nothing else.

    :raises ConfigFault: the TOML file cannot be read, or the path is no path.
    """
    return _state(Sources(options, environ))


# -- the settings -----------------------------------------------------------


def _domain(text: str, origin: Origin) -> str:
    domain = text.lower().rstrip(".")
    if not domain or not plain(domain) or len(domain) > 1023:
        raise origin.fault(f'"{text}" is not a domain')
    return domain


def _state(sources: Sources) -> Path:
    found = sources.text("state")
    if found:
        return as_path(*found)
    import platformdirs

    default = platformdirs.user_state_path("tillie")
    if not default.is_absolute():
        raise ConfigFault(
            "there is no home folder to keep the keys in",
            hint="name a folder with --state or TILLIE_STATE",
        )
    return default


def _ca(sources: Sources) -> Path | None:
    found = sources.text("ca")
    if not found:
        return None
    path = as_path(*found)
    try:
        pem = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise ConfigFault(
            f"{found[1].name}: {path} cannot be read: {error.strerror}"
        ) from error
    if pem is None:
        raise ConfigFault(f"{found[1].name}: {path} does not exist or is no file")
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigFault(
            f"{found[1].name}: there is no certificate in {path}",
            hint="a PEM file is wanted, with BEGIN CERTIFICATE in it",
        )
    return path


def _servers(sources: Sources) -> tuple[dict[str, Address], dict[str, Tls]]:
    servers: dict[str, Address] = {}
    tls: dict[str, Tls] = {}
    off: dict[str, Origin] = {}
    for domain, text, origin in _by_domain(sources, "server"):
        servers[domain] = address_of(text, origin)
    for domain, text, origin in _by_domain(sources, "tls"):
        tls[domain] = cast(Tls, as_word(text, origin, get_args(Tls)))
        off[domain] = origin
    for domain, mode in tls.items():
        server = servers.get(domain)
        if mode == "off" and (server is None or not is_loopback(server.host)):
            raise ConfigFault(
                f"{off[domain].name}: TLS cannot be off for {domain}:"
                " its server is not known to be on this machine",
                hint=f"leave it on, or add --server {domain}=127.0.0.1:5222",
            )
    return servers, tls


def _by_domain(sources: Sources, name: str) -> Iterator[tuple[str, str, Origin]]:
    """Yield what each source says of each domain, the strongest source last."""
    for written, entry in _entries(sources.document.get("servers")):
        if name in entry:
            origin = sources.in_file(f'servers."{written}".{name}')
            yield _domain(written, origin), as_text(entry[name], origin), origin
    for value, origin in reversed(list(sources.layers(name))):
        # One source may not contradict itself; two sources are what layers are for.
        seen: set[str] = set()
        for text in as_texts(value, origin):
            written, equals, rest = text.partition("=")
            if not equals or not rest:
                form = "HOST:PORT" if name == "server" else "|".join(get_args(Tls))
                raise origin.fault(f'"{text}" is not of the form DOMAIN={form}')
            domain = _domain(written, origin)
            if domain in seen:
                raise origin.fault(f"{domain} is there twice")
            seen.add(domain)
            yield domain, rest, origin


def _entries(servers: object) -> Iterable[tuple[str, Mapping[str, object]]]:
    return servers.items() if isinstance(servers, Mapping) else ()


def _patterns(sources: Sources, name: str) -> tuple[str, ...]:
    texts, origin = sources.texts(name) or ((), Origin(name, "file"))
    for text in texts:
        if "/" in text or not text.isprintable() or " " in text:
            raise origin.fault(
                f'"{text}" is not a pattern over bare addresses',
                'for example "*@bots.example", or "*" for all',
            )
    # Prepared JIDs are lower case (RFC 7622, 3.2 and 3.3), so patterns must be.
    return tuple(text.lower() for text in texts)


def _warnings(
    sources: Sources, listeners: tuple[Listener, ...], tls: Mapping[str, Tls]
) -> Iterator[str]:
    for one in listeners:
        if not is_loopback(one.address.host):
            yield (
                f"listening on {one}, as --{PUBLIC_SWITCH} asks:"
                " other machines can try passwords here"
            )
    for domain, mode in tls.items():
        if mode == "off":
            yield f"TLS is off towards the server of {domain}"
    if sources.path and sources.path.stat().st_mode & 0o002:
        yield f"everyone on this machine can change {sources.path}"
    yield from slips(sources.environ)
