"""A private ejabberd on loopback, its files all in one folder.

Found with Debian 12's ejabberd 23.01: it runs in the foreground as any user when
Erlang is started without `ejabberdctl`, and takes about 2 s for it. For outbound links
it asks Erlang's resolver for SRV, and the C library for the target's address: what
that does not know ends in `enoname`, whatever Erlang's resolver would say. So targets
are `localhost`, and SRV come from the bed's name server, for which `resolv_conf` must
be nothing in `inetrc`: else /etc/resolv.conf replaces what stands there. Certificates
of servers that connect must be good for clients too (extended key usage); before
25.08 one for servers only is refused.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .certificates import Leaf
from .waiting import free_ports, listens, until

LIBRARIES = "/usr/lib/x86_64-linux-gnu"

# As Debian's, as far as roads to an account and between servers go, on free ports.
_CONFIGURATION = """\
loglevel: {level}
hosts:
{hosts}
certfiles:
  - "{folder}/server.pem"
{trust}
listen:
  -
    port: {starttls}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    max_stanza_size: 262144
    shaper: c2s_shaper
    access: c2s
    starttls_required: true
  -
    port: {direct}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    max_stanza_size: 262144
    shaper: c2s_shaper
    access: c2s
    tls: true
  -
    port: {s2s}
    ip: "127.0.0.1"
    module: ejabberd_s2s_in
    max_stanza_size: 524288
  -
    port: {http}
    ip: "127.0.0.1"
    module: ejabberd_http
    request_handlers:
      /api: mod_http_api
      /bosh: mod_bosh
      /ws: ejabberd_http_ws
s2s_use_starttls: required
auth_password_format: scram
acl:
  local:
    user_regexp: ""
  loopback:
    ip:
      - 127.0.0.0/8
access_rules:
  local:
    allow: local
  c2s:
    allow: all
api_permissions:
  "the bed":
    who:
      ip: 127.0.0.1/8
    what:
      - register
      - status
shaper:
  normal:
    rate: 3000
    burst_size: 20000
  fast: 200000
shaper_rules:
  max_user_sessions: 10
  c2s_shaper: {shaper}
  s2s_shaper: fast
modules:
  mod_adhoc: {{}}
  mod_bosh: {{}}
  mod_caps: {{}}
  mod_carboncopy: {{}}
  mod_client_state: {{}}
  mod_disco: {{}}
  mod_http_api: {{}}
  mod_mam:
    default: always
  mod_offline: {{}}
  mod_ping: {{}}
  mod_privacy: {{}}
  mod_private: {{}}
  mod_pubsub:
    plugins:
      - flat
      - pep
  mod_roster:
    versioning: true
  mod_s2s_dialback: {{}}
  mod_stream_mgmt:
    resend_on_timeout: if_offline
  mod_vcard: {{}}
  mod_version: {{}}
"""

_NAMES = """\
{{resolv_conf, ""}}.
{{hosts_file, ""}}.
{{lookup, [dns]}}.
{{nameserver, {{127,0,0,1}}, {port}}}.
"""


@dataclass
class Ejabberd:
    """One server for all of `domains`; ports are known after construction.

    `starttls_port` takes clients with STARTTLS, `direct_port` those with direct TLS,
    `s2s_port` servers. `names` is the port of the name server that is asked for
    others. `limits=True` keeps Debian's rate limits (3 kB/s). `configuration` may be
    changed until it starts.

    `behind_gate` is what `tillie gate config ejabberd` printed; the changes that it
    asks for are made, and the printed c2s port, which wants PROXY, counts.
    """

    folder: Path
    leaf: Leaf
    domains: Sequence[str] = ("a.test",)
    ca: Path | None = None
    names: int = 0
    limits: bool = False
    log_level: str = "info"
    behind_gate: str = ""
    starttls_port: int = field(init=False)
    direct_port: int = field(init=False)
    s2s_port: int = field(init=False)
    http_port: int = field(init=False)
    configuration: str = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(4)
        self.starttls_port, self.direct_port, self.s2s_port, self.http_port = ports
        self.configuration = _CONFIGURATION.format(
            level=self.log_level,
            hosts="\n".join(f'  - "{one}"' for one in self.domains),
            folder=self.folder,
            trust=f'ca_file: "{self.ca}"' if self.ca else "",
            starttls=self.starttls_port,
            direct=self.direct_port,
            s2s=self.s2s_port,
            http=self.http_port,
            shaper="normal" if self.limits else "none",
        )
        if self.behind_gate:
            self._go_behind_gate()

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        file = self.folder / "log" / "ejabberd.log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def add_account(self, jid: str, password: str) -> None:
        """Make an account; the server must be running."""
        user, _, host = jid.partition("@")
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http_port}/api/register",
            json.dumps({"user": user, "host": host, "password": password}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200, answer.read()

    def start(self) -> None:
        """Start it and return when it is ready."""
        assert not self.running
        self._write()
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *("erl", "-noinput", "+K", "true"),
                    *("-mnesia", "dir", f'"{self.folder}/spool"', "-s", "ejabberd"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env=self._environment(),
                start_new_session=True,
            )
        until(self._ready, "ejabberd to listen", seconds=120, also=self._explain)

    def stop(self) -> None:
        """End it with SIGTERM; what it had accepted is on disk afterwards."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def _go_behind_gate(self) -> None:
        """Change the configuration as the printed text says, by its numbers."""
        file = self.folder / "tillie-gate.yml"
        file.write_text(self.behind_gate)
        before = self.configuration
        text = re.sub(  # 2
            r"  -\n(?:    (?!module).*\n)*    module: ejabberd_c2s\n(?:    .*\n)*",
            "",
            before,
        )
        for line in ("/bosh: mod_bosh", "/ws: ejabberd_http_ws"):
            text = text.replace(f"      {line}\n", "")
        for module in ("mod_bosh", "mod_s2s_dialback"):  # 3
            text = text.replace(f"  {module}: {{}}\n", "")
        assert text.count("\n") == before.count("\n") - 20
        assert "s2s_use_starttls: required\n" in text  # 4
        self.configuration = f"{text}include_config_file: {file}\n"  # 1
        ports = re.findall(r"^    port: (\d+)$", self.behind_gate, re.MULTILINE)
        self.starttls_port, self.direct_port = int(ports[0]), 0

    def _write(self) -> None:
        (self.folder / "spool").mkdir(exist_ok=True)
        pem = self.leaf.key.read_bytes() + self.leaf.certificate.read_bytes()
        (self.folder / "server.pem").write_bytes(pem)
        (self.folder / "inetrc").write_text(_NAMES.format(port=self.names or 1))
        (self.folder / "ejabberd.yml").write_text(self.configuration)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "ERL_LIBS": LIBRARIES,
            "ERL_INETRC": str(self.folder / "inetrc"),
            "ERL_CRASH_DUMP_BYTES": "0",
            "EJABBERD_CONFIG_PATH": str(self.folder / "ejabberd.yml"),
            "EJABBERD_LOG_PATH": str(self.folder / "log" / "ejabberd.log"),
        }

    def _ready(self) -> bool:
        if not self.running:
            raise AssertionError(f"ejabberd ended at once\n{self._explain()}")
        return " is started in the node" in self.log and listens(self.s2s_port)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Erlang has helpers of its own: the group is all of them.
        os.killpg(process.pid, how)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def _explain(self) -> str:
        output = self.folder / "output"
        said = output.read_text("utf-8", "replace") if output.exists() else ""
        return said + self.log[-4000:]
