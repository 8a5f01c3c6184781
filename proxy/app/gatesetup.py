"""The commands that set a gate up and try it: ``tillie gate config`` and ``check``."""

from __future__ import annotations

import ipaddress
import os
import shutil
import sys
from pathlib import Path

import click

from ..errors import ConfigFault
from ..suites import entropy
from .terminal import escaped

# -- tillie gate config -------------------------------------------------------

_EXAMPLE = "example.org"


@click.command("config")
@click.argument("server", type=click.Choice(["prosody", "ejabberd"]))
@click.option("--domain", multiple=True, metavar="D", help="Repeatable (example.org).")
@click.option(
    "--c2s-port", type=click.IntRange(1, 65535), help="The server's port for the gate."
)
@click.option(
    "--component-port",
    type=click.IntRange(1, 65535),
    help="The server's port for components (5347).",
)
@click.option(
    "--gate",
    "address",
    metavar="ADDR",
    help="Where gate and server meet, if not on one machine (127.0.0.1).",
)
@click.option(
    "--component-secret-file",
    metavar="FILE",
    help="The component's secret; made if it is not there.",
)
def config(
    server: str,
    domain: tuple[str, ...],
    c2s_port: int | None,
    component_port: int | None,
    address: str | None,
    component_secret_file: str | None,
) -> None:
    """Print the lines that an unmodified SERVER needs behind a gate."""
    from . import serverlines

    if not domain:
        click.echo(f"hint: these are for {_EXAMPLE}; --domain D names yours", err=True)
    if component_secret_file:
        secret = _secret_in(Path(component_secret_file))
    else:
        secret = _new_secret()
        click.echo(
            "hint: the secret is a new one; --component-secret-file FILE keeps it"
            " for tillie gate run",
            err=True,
        )
    joint = serverlines.Joint(
        domains=tuple(map(serverlines.domain_of, domain or (_EXAMPLE,))),
        secret=secret,
        address=_ip(address or serverlines.LOOPBACK),
        c2s_port=c2s_port or serverlines.C2S_PORT,
        component_port=component_port or serverlines.COMPONENT_PORT,
    )
    if joint.apart:
        click.echo(
            f"tillie: warning: {escaped(joint.address)} is no loopback address:"
            " passwords will cross that network unencrypted",
            err=True,
        )
    click.echo(serverlines.SERVERS[server](joint), nl=False)


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigFault(f'--gate: "{text}" is not an IP address') from None


def _new_secret() -> str:
    return entropy.token(24).hex()


def _secret_in(path: Path) -> str:
    """The secret in a file; a new one is written, for its owner alone, if none is.

    :raises ConfigFault: it cannot be read or written.
    """
    try:
        if path.exists():
            return path.read_text("utf-8").rstrip("\r\n")
        secret = _new_secret()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret + "\n")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigFault(
            f"--component-secret-file: {path} cannot be used: {reason}"
        ) from error
    return secret


# -- tillie gate check --------------------------------------------------------


@click.command("check")
@click.argument("domain")
@click.option(
    "--server", metavar="HOST:PORT", help="Where clients go, in place of DNS."
)
@click.option("--s2s", metavar="HOST:PORT", help="Where servers go, in place of DNS.")
@click.option(
    "--server-key", metavar="FINGERPRINT", help="What the domain's key has to be."
)
@click.option("--s2s-cert", metavar="FILE", help="Another domain's certificate, PEM.")
@click.option("--s2s-key", metavar="FILE", help="And its key, PEM.")
@click.option("--ca", metavar="FILE", help="Further trust anchors, PEM.")
@click.option("--resolver", metavar="ADDR:PORT", help="DNS server to ask.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def check(domain: str, as_json: bool, **options: str | None) -> int:
    """Try a DOMAIN with a gate from outside; exit code 1 if something is wrong.

    No account and no password are needed, and none are used.
    """
    from . import gatecheck
    from .checking import asked_of

    asked = asked_of(domain, options)
    found = gatecheck.check(asked)
    if as_json:
        click.echo(gatecheck.as_json(found))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(gatecheck.as_text(escaped(asked.domain), found, width))
    return 1 if gatecheck.failed(found) else 0
