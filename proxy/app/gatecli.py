"""The commands of ``tillie gate``."""

from __future__ import annotations

import os

import click

from .sources import METRICS_SWITCH
from .terminal import escaped


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
