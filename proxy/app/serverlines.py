"""What ``tillie gate config`` prints: the lines of an unmodified server behind a gate.

Pure text, for Debian's Prosody 0.12 and ejabberd 23.01, tested by starting both
with it.  It closes every road to an account but the gate's, and has certificates
required between servers (RFC 6120, 13.7.2): a server that has no key gets no link.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from .. import __version__
from ..errors import ConfigFault, PeerFault
from ..wire.jid import Jid

LOOPBACK: Final = "127.0.0.1"
C2S_PORT: Final = 15222
COMPONENT_PORT: Final = 5347
DIRECTORY: Final = "keys"
_MOST_SECRET: Final = 256


@dataclass(frozen=True, kw_only=True)
class Joint:
    """Where a gate and its server meet.

    :param domains: what the gate stands in front of, prepared.
    :param secret: of the components ``keys.DOMAIN``, printable ASCII.
    :param address: where the server listens for the gate.
    :raises ConfigFault: a value that no configuration could carry.
    """

    domains: tuple[str, ...]
    secret: str
    address: str = LOOPBACK
    c2s_port: int = C2S_PORT
    component_port: int = COMPONENT_PORT

    def __post_init__(self) -> None:
        if not self.domains:
            raise ConfigFault("a gate needs a domain", hint="name it with --domain")
        if len(set(self.domains)) != len(self.domains):
            raise ConfigFault("a domain is there twice")
        quoted = set(self.secret) & set("\"'\\")
        if not 16 <= len(self.secret) <= _MOST_SECRET or quoted:
            raise ConfigFault(
                "the component's secret must have 16 to 256 characters, no quotes"
                " and no backslashes"
            )
        if not (self.secret.isascii() and self.secret.isprintable()):
            raise ConfigFault("the component's secret must be printable ASCII")
        if self.c2s_port == self.component_port:
            raise ConfigFault("clients and component cannot share one port")

    @property
    def apart(self) -> bool:
        """Whether the gate is on another machine than the server."""
        return not ipaddress.ip_address(self.address).is_loopback


def domain_of(text: str) -> str:
    """The domain that *text* names, prepared.

    :raises ConfigFault: it names none.
    """
    try:
        jid = Jid.parse(text)
    except PeerFault as fault:
        raise ConfigFault(f'"{text}" is not a domain: {fault.text}') from fault
    if str(jid) != jid.domain:
        raise ConfigFault(f'"{text}" is not a domain')
    return jid.domain


def directories(joint: Joint) -> list[str]:
    return [f"{DIRECTORY}.{domain}" for domain in joint.domains]


def _heading(joint: Joint, server: str, mark: str) -> str:
    lines = [
        f"{server} behind tillie gate, for {', '.join(joint.domains)}",
        f"(printed by tillie {__version__}, gate config {server.lower()})",
    ]
    if joint.apart:
        lines += [
            "",
            f"WARNING: {joint.address} is no loopback address. On the way between",
            "gate and server nothing is encrypted, passwords neither: both ends must",
            "be in one tunnel (WireGuard, IPsec) that nobody else is in.",
        ]
    return _commented("\n".join(lines), mark)


def _commented(text: str, mark: str) -> str:
    return "\n".join(f"{mark} {line}".rstrip() for line in text.splitlines())


# -- Prosody ------------------------------------------------------------------

_PROSODY_HOW: Final = """
Debian: save as /etc/prosody/conf.d/tillie-gate.cfg.lua, owner root, group prosody,
mode 0640 (a secret is in it). It must be read last, as conf.d is there: what is set
here replaces what stands elsewhere. Then: prosodyctl check config, and restart. (The
check calls legacy_ssl_ports deprecated: that name is closed here too.)
The way back: remove the file, restart.
"""

_PROSODY: Final = """\
{heading}
--
{how}

-- 1. Clients come by the gate only. It ends TLS, so there is none on this leg. PLAIN
-- is allowed for password stores that know nothing better; Tillie takes SCRAM first.
c2s_interfaces = {{ "{address}" }}
c2s_ports = {{ {c2s_port} }}
c2s_direct_tls_ports = {{ }}
legacy_ssl_ports = {{ }}
c2s_require_encryption = false
allow_unencrypted_plain_auth = true

-- Debian's Prosody does not understand PROXY: it sees every client at the gate's
-- address. Watchers that ban addresses (fail2ban) must read the gate's log, or they
-- ban everybody; registration_throttle_max counts everybody together. And loopback is
-- no friend any more: 127.0.0.1 leaves the list of who may register without limit.
registration_allowlist = {{ }}
-- In-band registration stays as it is (allow_registration): the gate demands a key.
-- If invitations or another web page make accounts: whoever logs in first brings the
-- first key.

-- 2. No road around the gate. If you have modules_disabled elsewhere, put its names in
-- here too: this line replaces it.
modules_disabled = {{ "bosh"; "websocket"; "legacyauth"; "net_multiplex" }}

-- 3. Between servers: no certificate, no link, in both directions. The certificate
-- must name {names}.
s2s_require_encryption = true
s2s_secure_auth = true
s2s_insecure_domains = {{ }}

-- 4. The directory, which the gate runs as a component.
{component_listener}{components}
"""

_PROSODY_LISTENER: Final = """\
component_interfaces = {{ "{address}" }}
component_ports = {{ {component_port} }}
"""

_PROSODY_COMPONENT: Final = """\
Component "{directory}"
	component_secret = "{secret}"
"""


def prosody(joint: Joint) -> str:
    """The file for Prosody, in Lua, with a line end behind each line."""
    listener = ""
    if joint.apart or joint.component_port != COMPONENT_PORT:
        # Left out otherwise: other components of this server may listen elsewhere.
        listener = _PROSODY_LISTENER.format(
            address=joint.address, component_port=joint.component_port
        )
    return _PROSODY.format(
        heading=_heading(joint, "Prosody", "--"),
        how=_commented(_PROSODY_HOW.strip(), "--"),
        address=joint.address,
        c2s_port=joint.c2s_port,
        names=", ".join([*joint.domains, *directories(joint)]),
        component_listener=listener,
        components="".join(
            _PROSODY_COMPONENT.format(directory=one, secret=joint.secret)
            for one in directories(joint)
        ).rstrip("\n"),
    )


# -- ejabberd -----------------------------------------------------------------

_EJABBERD_HOW: Final = """
Debian: save as /etc/ejabberd/tillie-gate.yml, owner root, group ejabberd, mode 0640
(a secret is in it). ejabberd takes listeners from several files and everything else
from one, so these five changes are made by hand in /etc/ejabberd/ejabberd.yml:

 1. at its end:  include_config_file: /etc/ejabberd/tillie-gate.yml
 2. listen: delete both entries with "module: ejabberd_c2s" (ports 5222 and 5223), and
    the lines "/bosh: mod_bosh" and "/ws: ejabberd_http_ws" of 5443. They are roads
    around the gate. So is port 1883 (mod_mqtt), which takes the same passwords:
    delete it, or give it "ip: 127.0.0.1".
 3. modules: delete the lines mod_bosh and mod_s2s_dialback. Dialback lets servers in
    whose certificate is good for nothing. But without it ejabberd before 25.08 (all
    of Debian 12) also refuses who connects with a certificate that is for servers
    only, as Let's Encrypt's are since 2026. Upgrade; or keep dialback: then the gate's
    own test of the other side (domain-unkeyed) is all there is, and who controls DNS
    can pose as another server.
 4. s2s_use_starttls: required      (as Debian has it)
 5. certfiles must hold certificates for
    {names}

Then restart it. The way back: undo these five.
"""

_EJABBERD: Final = """\
{heading}
#
{how}

listen:
  # Clients come by the gate only. It ends TLS, so there is none on this leg. Each
  # client's real address comes by PROXY, which the gate has to send:
  # tillie gate run --proxy-protocol v2. Limits and bans (mod_fail2ban,
  # registration_timeout) go by it.
  -
    port: {c2s_port}
    ip: "{address}"
    module: ejabberd_c2s
    use_proxy_protocol: true
    access: c2s
    shaper: c2s_shaper
    max_stanza_size: 262144
  # The directory, which the gate runs as a component. Each stream gets what is for
  # its own name alone (global_routes), not what is for any of several domains.
  -
    port: {component_port}
    ip: "{address}"
    module: ejabberd_service
    global_routes: false
    hosts:
{components}
# In-band registration (mod_register) stays as it is: the gate demands a key. If a web
# page makes accounts (mod_register_web), whoever logs in first brings the first key.
"""

_EJABBERD_COMPONENT: Final = """\
      "{directory}":
        password: "{secret}"
"""


def ejabberd(joint: Joint) -> str:
    """The file for ejabberd, in YAML, with a line end behind each line."""
    how = _EJABBERD_HOW.strip().format(
        names=", ".join([*joint.domains, *directories(joint)])
    )
    return _EJABBERD.format(
        heading=_heading(joint, "ejabberd", "#"),
        how=_commented(how, "#"),
        address=joint.address,
        c2s_port=joint.c2s_port,
        component_port=joint.component_port,
        components="".join(
            _EJABBERD_COMPONENT.format(directory=one, secret=joint.secret)
            for one in directories(joint)
        ).rstrip("\n"),
    )


SERVERS: Final = {"prosody": prosody, "ejabberd": ejabberd}
