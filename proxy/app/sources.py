"""The three places where a setting is written, asked in order of precedence.

An option of the command line, its ``TILLIE_*`` variable, its key in the one TOML
file.  What a setting's name is in each, that nothing unknown stands in the file,
and the form of plain values are known here; what settings mean is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigFault

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
    "gate",
)
_POLICY = ("unknown", "require")
_SERVER = ("server", "tls")
METRICS_SWITCH = "metrics-beyond-this-machine"
_GATE = (
    "domain",
    "listen",
    "listen-tls",
    "backend",
    "cert",
    "key",
    "policy",
    "store",
    "state",
    "proxy-protocol",
    "proxy-from",
    "metrics",
    METRICS_SWITCH,
    "component",
    "component-secret-file",
    "resolver",
    "enforce",
    "between",
    "strangers",
    "strangers-each",
    "log-level",
    "log-json",
)
_GATE_TABLES = {"enforce": ("outbound", "inbound"), "between": ("probe", "ca")}
"""Tables inside the gate's; ``enforce.outbound`` is ``enforce-outbound`` elsewhere."""
_GATE_POLICY = ("domain", "account", "network", "policy")
# Variables that other parts read (named crash points, the client's account), so
# that a warning about a likely slip of the pen does not name them.
_OTHER_VARIABLES = ("TILLIE_CONFIG", "TILLIE_ACCOUNT", "TILLIE_JSON", "TILLIE_CRASH")


class UsageFault(ConfigFault):
    """An option's value is not of the form that the option takes."""


@dataclass(frozen=True)
class Origin:
    """Where a value came from, in the words of who wrote it there."""

    name: str
    kind: Literal["option", "variable", "file"]
    folder: Path | None = None

    def fault(self, text: str, hint: str = "") -> ConfigFault:
        """Make the fault of a value written here: wrong usage on the command line."""
        family = UsageFault if self.kind == "option" else ConfigFault
        return family(f"{self.name}: {text}", hint=hint)


class Sources:
    """The options, the variables and the TOML file, asked in this order.

    :param section: the table of the file in which the keys stand, ``gate`` for the
        gate's; empty for the top and ``[policy]``.
    """

    def __init__(
        self,
        options: Mapping[str, object],
        environ: Mapping[str, str],
        section: str = "",
    ) -> None:
        self.section = section
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
            return as_path(str(option), Origin("--config", "option"))
        if variable := self.environ.get("TILLIE_CONFIG"):
            return as_path(variable, Origin("TILLIE_CONFIG", "variable"))
        return None

    def layers(self, name: str) -> Iterator[tuple[object, Origin]]:
        """Yield what each source has for *name*, the strongest first."""
        option = name.replace("-", "_")
        variable = f"TILLIE_{option.upper()}"
        if option in self.options:
            yield self.options[option], Origin(f"--{name}", "option")
        if variable in self.environ:
            yield self.environ[variable], Origin(variable, "variable")
        table, key = self._place(name)
        if isinstance(table, Mapping) and key in table:
            place = name.replace("-", ".", 1) if key != name else name
            yield table[key], self.in_file(place)

    def _place(self, name: str) -> tuple[object, str]:
        """The table of the file in which *name* stands, and its key there."""
        if not self.section:
            inside = self.document.get("policy") if name in _POLICY else self.document
            return inside, name
        table = self.document.get(self.section)
        first, _, rest = name.partition("-")
        if rest in _GATE_TABLES.get(first, ()) and isinstance(table, Mapping):
            return table.get(first), rest
        return table, name

    def in_file(self, name: str) -> Origin:
        """Name a key of the TOML file."""
        assert self.path is not None
        inside = f"{self.section}." if self.section else ""
        return Origin(f"{self.path}: {inside}{name}", "file", self.path.parent)

    def text(self, name: str) -> tuple[str, Origin] | None:
        """Return the strongest value as text, or None where no source has one."""
        for value, origin in self.layers(name):
            return as_text(value, origin), origin
        return None

    def texts(self, name: str) -> tuple[tuple[str, ...], Origin] | None:
        """Return the strongest value as texts; a variable is split at white space
        and commas."""
        for value, origin in self.layers(name):
            return as_texts(value, origin), origin
        return None

    def flag(self, name: str, *, default: bool) -> bool:
        """Return the strongest value as a truth value."""
        for value, origin in self.layers(name):
            return as_flag(value, origin)
        return default

    def word(self, name: str, words: tuple[str, ...], default: str) -> str:
        """Return the strongest value as one of *words*."""
        found = self.text(name)
        return as_word(*found, words) if found else default


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
    if "gate" in top:
        top["gate"] = _checked_gate(_table(top["gate"], "gate", path), path)
    return top


def _checked_gate(table: Mapping[str, object], path: Path) -> dict[str, object]:
    gate = _known(table, _GATE, "gate.", path)
    for name, keys in _GATE_TABLES.items():
        if name in gate:
            inner = _table(gate[name], f"gate.{name}", path)
            gate[name] = _known(inner, keys, f"gate.{name}.", path)
    rows = gate.get("policy")
    if isinstance(rows, list):
        gate["policy"] = [
            _known(_table(one, "gate.policy", path), _GATE_POLICY, "gate.policy.", path)
            for one in rows
        ]
    return gate


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
    places |= {f"gate.policy.{name}": name for name in _GATE_POLICY}
    places |= {f"gate.{name}": name for name in _GATE}
    for table, inner in _GATE_TABLES.items():
        places |= {f"gate.{table}.{name}": name for name in inner}
    places |= {name: name for name in _TOP}
    places |= {f"{prefix}{name}": name for name in keys}
    close = difflib.get_close_matches(key, list(places.values()), n=1, cutoff=0.6)
    if not close:
        return "known here: " + ", ".join(keys)
    # The last place of a name is the nearest: the table the wrong key stands in.
    where = [place for place, name in places.items() if name == close[0]][-1]
    return f"did you mean {where}?"


# -- the form of one value --------------------------------------------------


def as_text(value: object, origin: Origin) -> str:
    """Return *value* as text that is not empty; raises what *origin* calls a fault."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise origin.fault("text in quotes is wanted here")
    if not value:
        raise origin.fault("this is empty")
    return value


def as_texts(value: object, origin: Origin) -> tuple[str, ...]:
    """Return *value* as texts; a variable is split at white space and commas."""
    if isinstance(value, str):
        value = (
            value.replace(",", " ").split() if origin.kind == "variable" else [value]
        )
    if not isinstance(value, list | tuple):
        raise origin.fault("a list of texts in quotes is wanted here")
    return tuple(as_text(one, origin) for one in value)


def as_flag(value: object, origin: Origin) -> bool:
    """Return *value* as a truth value; a variable says it in words or digits."""
    if isinstance(value, bool):
        return value
    if origin.kind == "variable" and isinstance(value, str):
        if value.lower() in ("1", "true", "yes", "on"):
            return True
        if value.lower() in ("0", "false", "no", "off"):
            return False
    raise origin.fault("true or false is wanted here")


def as_word(text: str, origin: Origin, words: tuple[str, ...]) -> str:
    """Return *text* in lower case if it is one of *words*."""
    if text.lower() in words:
        return text.lower()
    raise origin.fault(f'"{text}" is none of: {", ".join(words)}')


def as_path(text: str, origin: Origin) -> Path:
    """Make *text* absolute; in the file it counts from the file's own folder."""
    if "\0" in text:
        raise origin.fault("a path has no zero byte in it")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise origin.fault(f'the "~" in "{text}" cannot be resolved') from error
    return (origin.folder / path) if origin.folder else path.absolute()


def slips(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each ``TILLIE_*`` variable that looks like a misspelt one."""
    # Only a warning: TILLIE_* is also what container platforms set by themselves
    # for a service that happens to have this name (TILLIE_SERVICE_HOST).
    names = {*_TOP, *_POLICY, *_SERVER, *_GATE}
    names |= {f"{table}-{key}" for table, keys in _GATE_TABLES.items() for key in keys}
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
