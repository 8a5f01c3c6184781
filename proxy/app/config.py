"""Read, validate and freeze the configuration; unknown keys are refused.

Four sources, the first that has a value wins: an option of the command line, its
``TILLIE_*`` variable, its key in the one TOML file, the default.  A key is the
option's long name without the dashes in front (``listen-tls``; ``listen_tls`` is
taken too), a variable is the same in capitals (``TILLIE_LISTEN_TLS``).  Servers
are merged domain by domain, other lists replace each other whole.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias, cast, get_args

from ..errors import ConfigFault

Tls: TypeAlias = Literal["starttls", "direct", "off"]
Unknown: TypeAlias = Literal["ask", "require"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

PUBLIC_SWITCH = "listen-beyond-this-machine"

_TOP = (
    "listen",
    "listen-tls",
    PUBLIC_SWITCH,
    "state",
    "resolver",
    "ca",
    "log-level",
    "log-json",
    "clear",
    "fallback",
    "servers",
    "policy",
)
_POLICY = ("unknown", "require")
_SERVER = ("server", "tls")
# Variables that other parts read (named crash points, the client's account), so
# that a warning about a likely slip of the pen does not name them.
_OTHER_VARIABLES = ("TILLIE_CONFIG", "TILLIE_ACCOUNT", "TILLIE_JSON", "TILLIE_CRASH")


class UsageFault(ConfigFault):
    """An option's value is not of the form that the option takes."""


class Address(NamedTuple):
    """A host (an IP address without brackets, or a name) and a TCP or UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Listener(NamedTuple):
    """One listening address and what is spoken on it first."""

    address: Address
    security: Literal["starttls", "tls"]

    def __str__(self) -> str:
        return f"{self.address} ({self.security})"


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
    sources = _Sources(options, environ)
    public = sources.flag(PUBLIC_SWITCH, default=False)
    listeners = _listeners(sources, public=public)
    servers, tls = _servers(sources)
    return Config(
        listen=tuple(one.address for one in listeners if one.security == "starttls"),
        listen_tls=tuple(one.address for one in listeners if one.security == "tls"),
        listeners=listeners,
        state=_state(sources),
        resolver=_resolver(sources),
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
    return _state(_Sources(options, environ))


# -- sources ----------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """Where a value came from, in the words of who wrote it there."""

    name: str
    kind: Literal["option", "variable", "file"]
    folder: Path | None = None

    def fault(self, text: str, hint: str = "") -> ConfigFault:
        family = UsageFault if self.kind == "option" else ConfigFault
        return family(f"{self.name}: {text}", hint=hint)


class _Sources:
    """The options, the variables and the TOML file, asked in this order."""

    def __init__(
        self, options: Mapping[str, object], environ: Mapping[str, str]
    ) -> None:
        self.options = {
            name: value
            for name, value in options.items()
            if value not in (None, (), [])
        }
        # An empty variable is how a unit file or a shell says "not set".
        self.environ = {
            name: value
            for name, value in environ.items()
            if name.startswith("TILLIE_") and value
        }
        self.path = self._config_path()
        self.document = _document(self.path) if self.path else {}

    def _config_path(self) -> Path | None:
        option = self.options.get("config")
        if option is not None:
            return _path(str(option), _Origin("--config", "option"))
        if variable := self.environ.get("TILLIE_CONFIG"):
            return _path(variable, _Origin("TILLIE_CONFIG", "variable"))
        return None

    def layers(self, name: str) -> Iterator[tuple[object, _Origin]]:
        """Yield what each source has for *name*, the strongest first."""
        option = name.replace("-", "_")
        variable = f"TILLIE_{option.upper()}"
        if option in self.options:
            yield self.options[option], _Origin(f"--{name}", "option")
        if variable in self.environ:
            yield self.environ[variable], _Origin(variable, "variable")
        table = self.document.get("policy", {}) if name in _POLICY else self.document
        if isinstance(table, Mapping) and name in table:
            yield table[name], self.in_file(name)

    def in_file(self, name: str) -> _Origin:
        """Name a key of the TOML file."""
        assert self.path is not None
        return _Origin(f"{self.path}: {name}", "file", self.path.parent)

    def text(self, name: str) -> tuple[str, _Origin] | None:
        """Return the strongest value as text, or None where no source has one."""
        for value, origin in self.layers(name):
            return _text(value, origin), origin
        return None

    def texts(self, name: str) -> tuple[tuple[str, ...], _Origin] | None:
        """Return the strongest value as texts; a variable is split at white space
        and commas."""
        for value, origin in self.layers(name):
            return _texts(value, origin), origin
        return None

    def flag(self, name: str, *, default: bool) -> bool:
        """Return the strongest value as a truth value."""
        for value, origin in self.layers(name):
            return _flag(value, origin)
        return default

    def word(self, name: str, words: tuple[str, ...], default: str) -> str:
        """Return the strongest value as one of *words*."""
        found = self.text(name)
        return _word(*found, words) if found else default


def _document(path: Path) -> dict[str, object]:
    """Read the TOML file and refuse every key that nothing would read."""
    import tomllib

    try:
        if not path.is_file():
            raise ConfigFault(
                f"the configuration file {path} does not exist or is no file",
                hint="check --config and TILLIE_CONFIG",
            )
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigFault(
            f"the configuration file {path} cannot be read: {error.strerror}"
        ) from error
    except (ValueError, RecursionError) as error:
        # tomllib's own words carry line and column; UnicodeDecodeError the byte.
        raise ConfigFault(
            f"the configuration file {path} is not TOML: {error}",
            hint='text stands in quotes there: listen = "127.0.0.1:5222"',
        ) from error
    return _checked(document, path)


def _checked(document: dict[str, object], path: Path) -> dict[str, object]:
    top = _known(document, _TOP, "", path)
    if "policy" in top:
        top["policy"] = _known(
            _table(top["policy"], "policy", path), _POLICY, "policy.", path
        )
    if "servers" in top:
        top["servers"] = {
            domain: _known(
                _table(one, f'servers."{domain}"', path),
                _SERVER,
                f'servers."{domain}".',
                path,
            )
            for domain, one in _table(top["servers"], "servers", path).items()
        }
    return top


def _table(value: object, name: str, path: Path) -> Mapping[str, object]:
    if isinstance(value, Mapping):
        return value
    raise ConfigFault(f"{path}: {name} is a table", hint=f"write it as [{name}]")


def _known(
    table: Mapping[str, object], keys: tuple[str, ...], prefix: str, path: Path
) -> dict[str, object]:
    found: dict[str, object] = {}
    for written, value in table.items():
        key = written.replace("_", "-")
        if key not in keys:
            raise ConfigFault(
                f"{path}: {prefix}{written} is not a setting",
                hint=_suggestion(key, keys, prefix),
            )
        if key in found:
            raise ConfigFault(f"{path}: {prefix}{key} is there twice")
        found[key] = value
    return found


def _suggestion(key: str, keys: tuple[str, ...], prefix: str) -> str:
    import difflib

    places = {f'servers."example.org".{name}': name for name in _SERVER}
    places |= {f"policy.{name}": name for name in _POLICY}
    places |= {name: name for name in _TOP}
    places |= {f"{prefix}{name}": name for name in keys}
    close = difflib.get_close_matches(key, list(places.values()), n=1, cutoff=0.6)
    if not close:
        return "known here: " + ", ".join(keys)
    # The last place of a name is the nearest: the table the wrong key stands in.
    where = [place for place, name in places.items() if name == close[0]][-1]
    return f"did you mean {where}?"


# -- the form of one value --------------------------------------------------


def _text(value: object, origin: _Origin) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise origin.fault("text in quotes is wanted here")
    if not value:
        raise origin.fault("this is empty")
    return value


def _texts(value: object, origin: _Origin) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (
            value.replace(",", " ").split() if origin.kind == "variable" else [value]
        )
    if not isinstance(value, list | tuple):
        raise origin.fault("a list of texts in quotes is wanted here")
    return tuple(_text(one, origin) for one in value)


def _flag(value: object, origin: _Origin) -> bool:
    if isinstance(value, bool):
        return value
    if origin.kind == "variable" and isinstance(value, str):
        if value.lower() in ("1", "true", "yes", "on"):
            return True
        if value.lower() in ("0", "false", "no", "off"):
            return False
    raise origin.fault("true or false is wanted here")


def _word(text: str, origin: _Origin, words: tuple[str, ...]) -> str:
    if text.lower() in words:
        return text.lower()
    raise origin.fault(f'"{text}" is none of: {", ".join(words)}')


def _address(text: str, origin: _Origin, *, lowest: int = 1) -> Address:
    """Parse ``HOST:PORT`` or ``[V6]:PORT``; ``localhost`` becomes 127.0.0.1."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    wrong = origin.fault(
        f'"{text}" is not of the form HOST:PORT',
        "for example 127.0.0.1:5222, or [::1]:5222",
    )
    if not colon or not host or bracketed != (":" in host) or not _plain(host):
        raise wrong
    # int() alone would take "+1", "1_0" and other scripts' digits.
    if not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise wrong
    if not lowest <= int(port) <= 65535:
        raise origin.fault(f'the port in "{text}" is not in {lowest}..65535')
    if bracketed and _ip(host) is None:
        raise wrong
    # A name may be answered by whoever runs DNS; this one has one meaning only
    # (RFC 6761, 6.3), and the loopback checks below count on it.
    if host.lower().rstrip(".") == "localhost":
        host = "127.0.0.1"
    return Address(host, int(port))


def _plain(host: str) -> bool:
    return host.isprintable() and not set(host) & set(" /@[]=,\"'")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return ip is not None and ip.is_loopback


def _path(text: str, origin: _Origin) -> Path:
    """Make *text* absolute; in the file it counts from the file's own folder."""
    if "\0" in text:
        raise origin.fault("a path has no zero byte in it")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise origin.fault(f'the "~" in "{text}" cannot be resolved') from error
    return (origin.folder / path) if origin.folder else path.absolute()


def _domain(text: str, origin: _Origin) -> str:
    domain = text.lower().rstrip(".")
    if not domain or not _plain(domain) or len(domain) > 1023:
        raise origin.fault(f'"{text}" is not a domain')
    return domain


# -- the settings -----------------------------------------------------------


def _listeners(sources: _Sources, *, public: bool) -> tuple[Listener, ...]:
    plain = [
        Listener(address, "starttls")
        for address in _listen_addresses(sources, "listen", public=public)
    ]
    direct = [
        Listener(address, "tls")
        for address in _listen_addresses(sources, "listen-tls", public=public)
    ]
    given = _in_order(plain, direct, sources.options.get("listen_order"))
    if not given:
        return (Listener(Address("127.0.0.1", 5222), "starttls"),)
    taken: set[Address] = set()
    for one in given:
        if one.address in taken:
            raise ConfigFault(f"{one.address} is to be listened on twice")
        if one.address.port:
            taken.add(one.address)
    return tuple(given)


def _in_order(
    plain: list[Listener], direct: list[Listener], order: object
) -> list[Listener]:
    queues = {"listen": list(plain), "listen_tls": list(direct)}
    names = order if isinstance(order, list | tuple) else ()
    # Without a word on the order (variables, file) the order is as written here.
    out = [queues[name].pop(0) for name in names if queues.get(name)]
    return out + queues["listen"] + queues["listen_tls"]


def _listen_addresses(
    sources: _Sources, name: str, *, public: bool
) -> Iterator[Address]:
    texts, origin = sources.texts(name) or ((), _Origin(name, "file"))
    for text in texts:
        address = _address(text, origin, lowest=0)
        if _ip(address.host) is None:
            raise origin.fault(
                f'"{address.host}" is a name; a listener needs an IP address',
                "for example 127.0.0.1:5222, or [::1]:5222",
            )
        if not public and not _is_loopback(address.host):
            # Not origin.fault: the form is right, it is the wish that is refused.
            raise ConfigFault(
                f"{origin.name}: {address} can be reached from other machines,"
                " and passwords would cross the network to get there",
                hint="listen on 127.0.0.1 or [::1];"
                f" if it really must be, say so with --{PUBLIC_SWITCH}",
            )
        yield address


def _state(sources: _Sources) -> Path:
    found = sources.text("state")
    if found:
        return _path(*found)
    import platformdirs

    default = platformdirs.user_state_path("tillie")
    if not default.is_absolute():
        raise ConfigFault(
            "there is no home folder to keep the keys in",
            hint="name a folder with --state or TILLIE_STATE",
        )
    return default


def _resolver(sources: _Sources) -> Address | None:
    found = sources.text("resolver")
    if not found:
        return None
    address = _address(*found)
    if _ip(address.host) is None:
        raise found[1].fault(f'"{address.host}" is a name; an IP address is wanted')
    return address


def _ca(sources: _Sources) -> Path | None:
    found = sources.text("ca")
    if not found:
        return None
    path = _path(*found)
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


def _servers(sources: _Sources) -> tuple[dict[str, Address], dict[str, Tls]]:
    servers: dict[str, Address] = {}
    tls: dict[str, Tls] = {}
    off: dict[str, _Origin] = {}
    for domain, text, origin in _by_domain(sources, "server"):
        servers[domain] = _address(text, origin)
    for domain, text, origin in _by_domain(sources, "tls"):
        tls[domain] = cast(Tls, _word(text, origin, get_args(Tls)))
        off[domain] = origin
    for domain, mode in tls.items():
        server = servers.get(domain)
        if mode == "off" and (server is None or not _is_loopback(server.host)):
            raise ConfigFault(
                f"{off[domain].name}: TLS cannot be off for {domain}:"
                " its server is not known to be on this machine",
                hint=f"leave it on, or add --server {domain}=127.0.0.1:5222",
            )
    return servers, tls


def _by_domain(sources: _Sources, name: str) -> Iterator[tuple[str, str, _Origin]]:
    """Yield what each source says of each domain, the strongest source last."""
    for written, entry in _entries(sources.document.get("servers")):
        if name in entry:
            origin = sources.in_file(f'servers."{written}".{name}')
            yield _domain(written, origin), _text(entry[name], origin), origin
    for value, origin in reversed(list(sources.layers(name))):
        # One source may not contradict itself; two sources are what layers are for.
        seen: set[str] = set()
        for text in _texts(value, origin):
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


def _patterns(sources: _Sources, name: str) -> tuple[str, ...]:
    texts, origin = sources.texts(name) or ((), _Origin(name, "file"))
    for text in texts:
        if "/" in text or not text.isprintable() or " " in text:
            raise origin.fault(
                f'"{text}" is not a pattern over bare addresses',
                'for example "*@bots.example", or "*" for all',
            )
    # Prepared JIDs are lower case (RFC 7622, 3.2 and 3.3), so patterns must be.
    return tuple(text.lower() for text in texts)


def _warnings(
    sources: _Sources, listeners: tuple[Listener, ...], tls: Mapping[str, Tls]
) -> Iterator[str]:
    for one in listeners:
        if not _is_loopback(one.address.host):
            yield (
                f"listening on {one}, as --{PUBLIC_SWITCH} asks:"
                " other machines can try passwords here"
            )
    for domain, mode in tls.items():
        if mode == "off":
            yield f"TLS is off towards the server of {domain}"
    if sources.path and sources.path.stat().st_mode & 0o002:
        yield f"everyone on this machine can change {sources.path}"
    yield from _slips(sources.environ)


def _slips(environ: Mapping[str, str]) -> Iterator[str]:
    # Only a warning: TILLIE_* is also what container platforms set by themselves
    # for a service that happens to have this name (TILLIE_SERVICE_HOST).
    names = (*_TOP, *_POLICY, *_SERVER)
    known = [f"TILLIE_{name.upper().replace('-', '_')}" for name in names]
    known += _OTHER_VARIABLES
    odd = sorted(name for name in environ if name not in known)
    if not odd:
        return
    import difflib

    for name in odd:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
        if close:
            yield f"{name} is not a setting; did you mean {close[0]}?"
