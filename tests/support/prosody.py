"""A private Prosody on loopback, its files all in one folder.

Found with Debian 12's Prosody 0.12.3: it runs in the foreground as root with
`run_as_root`, leaves Nagle on unless told, offers `tls-unique` alone as channel
binding (so none over TLS 1.3), and reads an account's file at each login, so
accounts can be added while it runs.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .certificates import Leaf
from .waiting import free_ports, listens, until

ITERATIONS = 4096

_MODULES = """
  "roster"; "saslauth"; "tls"; "disco"; "carbons"; "pep"; "smacks"; "mam";
  "blocklist"; "csi_simple"; "register"; "ping"; "vcard_legacy"; "bookmarks";
  "private"; "offline"; "time"; "version";
"""

_CONFIGURATION = """
{root}
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
log = {{ {{ levels = {{ min = "{level}" }}; to = "file"; filename = "{folder}/log" }} }}
certificates = "{folder}"
interfaces = {{ "127.0.0.1" }}
local_interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {starttls} }}
c2s_direct_tls_ports = {{ {direct} }}
http_interfaces = {{ "127.0.0.1" }}
http_ports = {{ {http} }}
https_ports = {{ }}
network_settings = {{ tcp_nodelay = true }}
modules_enabled = {{ {modules} {more_modules} }}
{between_servers}
authentication = "internal_hashed"
default_iteration_count = {iterations}
storage = "internal"
archive_expires_after = "never"
smacks_hibernation_time = 300
c2s_require_encryption = {require_encryption}
allow_unencrypted_plain_auth = {plain_auth}
ssl = {{ {certificate} {trust} }}
c2s_direct_tls_ssl = {{ {certificate} }}
{options}
{hosts}
{services}
{behind_gate}
"""

_SERVICES = """
Component "conference.{first}" "muc"
  restrict_room_creation = false
  muc_room_default_public = false
Component "upload.{first}" "http_file_share"
"""

_NO_SERVERS = 'modules_disabled = { "s2s"; "s2s_auth_certs" }'

# The file is Lua: a table stands in for DNS, which Prosody cannot be given a port for.
_SERVERS = """
local servers = {{ {table} }}
package.preload["net.resolvers.service"] = function ()
  local basic = require "net.resolvers.basic"
  local function none(hostname)
    local told = "no SRV record for "..hostname
    return {{ hostname = hostname; last_error = told; next = function (_, cb) cb() end }}
  end
  return {{ new = function (hostname, service, conn_type, extra)
    local port = service == "xmpp-server" and servers[hostname]
    if not port then return none(hostname) end
    return basic.new("127.0.0.1", port, conn_type, extra)
  end }}
end
s2s_interfaces = {{ "127.0.0.1" }}
s2s_ports = {{ {port} }}
s2s_timeout = 10
"""


@dataclass
class Prosody:
    """One server for all of `domains`; ports are known after construction.

    `starttls_port` takes clients with STARTTLS, `direct_port` those with direct
    TLS (XEP-0368). `limits=True` switches Debian's rate limits on (10 kB/s).
    `options` is Lua put before the hosts, `modules` are further ones; `services=False` leaves rooms and uploads out.

    `peers` maps foreign domains to the loopback ports of their servers and lets it
    federate, on `s2s_port` and as Debian's does, with dialback; without, it talks to
    no other server. `ca` is whom it trusts beside the system. `behind_gate` is
    what `tillie gate config prosody` printed, included behind all else as Debian's
    conf.d is; then there is no direct TLS, and the printed c2s port counts.
    """

    folder: Path
    leaf: Leaf | None
    domains: Sequence[str] = ("a.test", "b.test")
    limits: bool = False
    require_encryption: bool = True
    options: str = ""
    log_level: str = "info"
    services: bool = True
    modules: Sequence[str] = ()
    peers: Mapping[str, int] | None = None
    ca: Path | None = None
    behind_gate: str = ""
    starttls_port: int = field(init=False)
    direct_port: int = field(init=False)
    http_port: int = field(init=False)
    s2s_port: int = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        ports = free_ports(4)
        self.starttls_port, self.direct_port, self.http_port, self.s2s_port = ports
        if self.behind_gate:
            found = re.search(
                r"^c2s_ports = { (\d+) }$", self.behind_gate, re.MULTILINE
            )
            assert found, "no c2s port in what was printed"
            self.starttls_port, self.direct_port = int(found[1]), 0

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        file = self.folder / "log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def add_account(self, jid: str, password: str) -> None:
        """Store SCRAM-SHA-1 keys for a bare JID, as mod_auth_internal_hashed does."""
        local, _, domain = jid.partition("@")
        salt = secrets.token_hex(8)
        salted = hashlib.pbkdf2_hmac(
            "sha1", password.encode(), salt.encode(), ITERATIONS
        )
        client_key = hmac.digest(salted, b"Client Key", "sha1")
        stored_key = hashlib.sha1(client_key).hexdigest()
        server_key = hmac.digest(salted, b"Server Key", "sha1").hex()
        folder = self.folder / "data" / _encoded(domain) / "accounts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{_encoded(local)}.dat").write_text(
            f'return {{ ["salt"] = "{salt}"; ["iteration_count"] = {ITERATIONS};'
            f' ["stored_key"] = "{stored_key}"; ["server_key"] = "{server_key}"; }};\n'
        )

    def start(self) -> None:
        """Start it and return when its ports accept connections."""
        self._write_configuration()
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                ["prosody", "-F", "--config", str(self.folder / "prosody.cfg.lua")],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
            )
        until(self._ready, "Prosody to listen", also=self._explain)

    def stop(self) -> None:
        """End it with SIGTERM; what it had accepted is on disk afterwards."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it, if it runs, and start it on the same ports and data."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Stop the process without ending it: the network looks alive, no answer."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended server run on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def _ready(self) -> bool:
        if not self.running:
            raise AssertionError(f"Prosody ended at once\n{self._explain()}")
        ports = [self.starttls_port, self.direct_port]
        if self.peers is not None:
            ports.append(self.s2s_port)
        return all(listens(port) for port in ports if port)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _explain(self) -> str:
        return (self.folder / "output").read_text("utf-8", "replace") + self.log[-2000:]

    def _write_configuration(self) -> None:
        limits = 'limits = { c2s = { rate = "10kb/s" }; }\n' if self.limits else ""
        text = _CONFIGURATION.format(
            root="run_as_root = true" if os.geteuid() == 0 else "",
            folder=self.folder,
            level=self.log_level,
            starttls=self.starttls_port,
            direct=self.direct_port,
            http=self.http_port,
            modules=_MODULES,
            more_modules=('"limits";' if self.limits else "")
            + ('"dialback";' if self.peers is not None else "")
            + "".join(f'"{one}";' for one in self.modules),
            iterations=ITERATIONS,
            require_encryption=str(self.require_encryption).lower(),
            plain_auth=str(not self.require_encryption).lower(),
            certificate=self._certificate(),
            trust=f'cafile = "{self.ca}"' if self.ca else "",
            options=limits + self.options,
            hosts="\n".join(f'VirtualHost "{one}"' for one in self.domains),
            services=_SERVICES.format(first=self.domains[0]) if self.services else "",
            between_servers=self._between_servers(),
            behind_gate='Include "conf.d/*.cfg.lua"' if self.behind_gate else "",
        )
        (self.folder / "prosody.cfg.lua").write_text(text)
        if self.behind_gate:
            folder = self.folder / "conf.d"
            folder.mkdir(exist_ok=True)
            (folder / "tillie-gate.cfg.lua").write_text(self.behind_gate)

    def _certificate(self) -> str:
        if self.leaf is None:
            return ""
        return f'certificate = "{self.leaf.certificate}"; key = "{self.leaf.key}";'

    def _between_servers(self) -> str:
        if self.peers is None:
            return _NO_SERVERS
        table = "; ".join(f'["{name}"] = {port}' for name, port in self.peers.items())
        return _SERVERS.format(table=table, port=self.s2s_port)


def _encoded(name: str) -> str:
    """Return a name as Prosody's util.datamanager writes it in file names."""
    return "".join(one if one.isalnum() else f"%{ord(one):02x}" for one in name)
