"""The commands of ``tillie gate``."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from .sources import METRICS_SWITCH
from .terminal import escaped, table

if TYPE_CHECKING:
    from .gateadmin import Place


class InOrder(click.Command):
    """Remembers in which order listeners were asked for: their lines come in it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta["listen_order"] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


@click.group()
def gate() -> None:
    """Stand in front of a server and let nobody in without a key."""


@gate.command(cls=InOrder)
@click.option("--domain", multiple=True, metavar="D", help="A domain of the server.")
@click.option("--listen", multiple=True, metavar="ADDR:PORT", help="Offer STARTTLS.")
@click.option("--listen-tls", multiple=True, metavar="ADDR:PORT", help="Direct TLS.")
@click.option(
    "--backend",
    multiple=True,
    metavar="[D=]HOST:PORT",
    help="Where the server takes clients, on this machine.",
)
@click.option("--cert", multiple=True, metavar="[D=]FILE", help="Certificate, PEM.")
@click.option("--key", multiple=True, metavar="[D=]FILE", help="Its key, PEM.")
@click.option("--policy", metavar="WORD", help="keys-only (default) or optional.")
@click.option("--store", metavar="URL", help="Registry, in place of a file.")
@click.option("--state", metavar="DIR", help="Folder for everything that is kept.")
@click.option("--config", metavar="FILE", help="TOML file; the table [gate] counts.")
@click.option(
    "--proxy-protocol", metavar="v1|v2", help="Tell the server the client's address."
)
@click.option(
    "--proxy-from",
    multiple=True,
    metavar="NETWORK",
    help="Balancers that tell the gate the client's address.",
)
@click.option(
    "--component",
    metavar="HOST:PORT",
    help="The server's port for components: the directories keys.D.",
)
@click.option(
    "--component-secret-file", metavar="FILE", help="What server and gate share."
)
@click.option("--resolver", metavar="ADDR:PORT", help="DNS server to ask.")
@click.option("--metrics", metavar="ADDR:PORT", help="Serve /metrics and /healthz.")
@click.option(
    f"--{METRICS_SWITCH}",
    is_flag=True,
    default=None,
    help="Allow --metrics where other machines reach it.",
)
@click.option(
    "--strangers", metavar="N", help="Connections that may wait to log in (8192)."
)
@click.option("--strangers-each", metavar="N", help="And of one address (4096).")
@click.option(
    "--log-level", metavar="LEVEL", help="debug, info (default), warning or error."
)
@click.option("--log-json", is_flag=True, default=None, help="Log one JSON per line.")
@click.pass_context
def run(ctx: click.Context, /, **options: object) -> int:
    """Take the public ports of a server that listens on this machine only.

    Every option has a TILLIE_ variable (TILLIE_LISTEN) and a key in the table
    [gate] of the TOML file (listen).
    """
    from .gateconfig import load

    # Before anything is opened: no file of ours is ever readable by others.
    os.umask(0o077)
    config = load({**options, **ctx.meta}, os.environ)
    for warning in config.warnings:
        click.echo(f"tillie: warning: {escaped(warning)}", err=True)
    # Twisted and the cryptography come with it; no other command needs them.
    from .gate import run as serve

    return serve(config)


# -- commands that work in the registry, whether gates run or not ---------------


def _keeping(command: Callable[..., None]) -> Callable[..., None]:
    """Give *command* the options that say where; its first argument is `Place`."""

    @wraps(command)
    def keeping(
        store: str | None, state: str | None, config: str | None, **rest: Any
    ) -> None:
        # SQLAlchemy comes with it; "tillie run" and --help do without.
        from .gateadmin import place

        # Before anything is opened: no file of ours is ever readable by others.
        os.umask(0o077)
        given = {"store": store, "state": state, "config": config}
        command(place(given, os.environ), **rest)

    for option in (
        click.option("--config", metavar="FILE", help="TOML file; [gate] counts."),
        click.option("--state", metavar="DIR", help="The gate's folder."),
        click.option("--store", metavar="URL", help="Its registry, if elsewhere."),
    ):
        keeping = option(keeping)
    return keeping


def _account(_: click.Context, __: click.Parameter, text: str) -> str:
    from .gateadmin import bare

    return bare(text)


_UNKNOWN = (
    'hint: known are logins by way of a gate with this registry, under "optional".'
    " Who has not come since then, or goes to the server by another way, is in no list"
    " of a gate: compare with the server's own list of accounts, and tillie gate check"
)
_JID = click.argument("account", metavar="JID", callback=_account)


@gate.command()
@_keeping
def migrate(where: Place) -> None:
    """Create the registry, or bring one of an older version up to date."""
    from .gateadmin import migrate as move

    before, after = move(where)
    if before == after:
        click.echo(f"the registry has schema {after} already")
    else:
        click.echo(f"the registry has schema {after} now; it had {before or 'none'}")


@gate.command()
@click.option("--without-key", is_flag=True, help="Only those that have none.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@_keeping
def accounts(where: Place, without_key: bool, as_json: bool) -> None:
    """List accounts with their keys.

    --without-key lists those that logged in without one, under the policy
    "optional": whom "keys-only" would lock out. Who never came is in neither list.
    """
    if without_key:
        click.echo(_UNKNOWN, err=True)
    from . import gateadmin

    found = gateadmin.without_key(where) if without_key else gateadmin.accounts(where)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo("none that is known" if without_key else "no accounts")
    else:
        columns = list(found[0])
        rows = [[str(one[name] or "-") for name in columns] for one in found]
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        titles = [name.replace("_", " ") for name in columns]
        click.echo(table(titles, rows, width))


@gate.command()
@_JID
@click.option("--now", "at_once", is_flag=True, help="Without 72 hours, no objection.")
@click.option("--cancel", is_flag=True, help="Take a reset back that is not done.")
@_keeping
def reset(where: Place, account: str, at_once: bool, cancel: bool) -> None:
    """Let the next key of JID take the place of the one that it lost.

    It is taken after 72 hours, if no device of the account objects until then.
    With --now it is taken from now on: make sure that it is JID's person who asks.
    """
    from . import gateadmin

    if cancel:
        gateadmin.cancel_reset(where, account)
        click.echo(escaped(f"{account}: the key stays"))
        return
    begun = gateadmin.reset(where, account, at_once=at_once)
    click.echo(escaped(f"{account}: a new key is taken from {begun['due']} on"))


@gate.command()
@_JID
@click.option("--withdraw", is_flag=True, help="A first key needs no code again.")
@_keeping
def enrol(where: Place, account: str, withdraw: bool) -> None:
    """Print a one-time code, with which alone the first key of JID is taken.

    Without one, whoever has the password first brings the first key.
    """
    from . import gateadmin

    if withdraw:
        gateadmin.withdraw(where, account)
        click.echo(escaped(f"{account}: the code counts no more"))
    else:
        click.echo(gateadmin.enrol(where, account))


@gate.command()
@click.option("--domain", metavar="D", help="Whose key, if the gate has several.")
@click.option("--now", "at_once", is_flag=True, help="Do not wait for 30 days.")
@_keeping
def rotate(where: Place, domain: str | None, at_once: bool) -> None:
    """Announce the next key of a domain; 30 days later, let it follow.

    The first call makes the key and announces it, the next one, when it is due,
    signs it in with the old key and puts it in force. Copy the file
    server-D.next.key to the other gates of the domain between the two.
    """
    from . import gateadmin

    done = gateadmin.rotate(where, gateadmin.one_domain(where, domain), at_once=at_once)
    if done["next"]:
        click.echo(f"next key {done['next'][:16]} is announced, due {done['due']}")
    else:
        click.echo(f"key {done['key'][:16]} is in force, document {done['seq']}")
