"""The commands of ``tillie``, their words and their exit codes.

0 done, 1 refused or failed, 2 wrong usage, 3 not running.  Reading and deciding
commands ask the running Tillie over its control socket and decide nothing
themselves.  Everything printed passes ``terminal.escaped``: names and notices
are chosen by strangers.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import Fault
from . import gatesetup
from .config import load, state_folder
from .control import NotRunning, ask
from .gatecli import InOrder, gate
from .sources import PUBLIC_SWITCH, UsageFault
from .terminal import escaped
from .texts import (
    all_well,
    device_text,
    doctor_text,
    enrol_text,
    link_text,
    policy_text,
    rollover_text,
    status_text,
    table_text,
)

DONE, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter gets its escape, not a traceback.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        code = tillie.main(argv, prog_name="tillie", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        return _complain(_sentence(error), _usage_hint(error), USAGE)
    except click.ClickException as error:
        return _complain(_sentence(error), "", FAILED)
    except click.Abort:
        return _complain("interrupted", "", FAILED)
    except UsageFault as fault:
        return _complain(fault.text, fault.hint, USAGE)
    except NotRunning as fault:
        return _complain(fault.text, fault.hint, NOT_RUNNING)
    except Fault as fault:
        return _complain(fault.text, fault.hint, FAILED)
    except BrokenPipeError:
        # Whoever read has gone; the interpreter's own last flush must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code if isinstance(code, int) else DONE


def _complain(text: str, hint: str, code: int) -> int:
    click.echo(f"tillie: error: {escaped(text)}", err=True)
    if hint:
        click.echo(f"hint: {escaped(hint)}", err=True)
    return code


def _sentence(error: click.ClickException) -> str:
    # click breaks lists of choices into lines
    text = " ".join(error.format_message().split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _usage_hint(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else "tillie"
    return f"{path} --help shows what it takes"


# -- tillie run -------------------------------------------------------------


@click.group(
    no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="tillie", message="%(prog)s %(version)s")
def tillie() -> None:
    """Always-on end-to-end encryption for the XMPP client you already use.

    Start "tillie run", then let your client connect to 127.0.0.1 port 5222
    with the account and the password that it has.
    """


@tillie.command(cls=InOrder)
@click.option("--listen", multiple=True, metavar="ADDR:PORT", help="Offer STARTTLS.")
@click.option("--listen-tls", multiple=True, metavar="ADDR:PORT", help="Direct TLS.")
@click.option("--state", metavar="DIR", help="Folder for everything that is kept.")
@click.option("--config", metavar="FILE", help="TOML file.")
@click.option("--resolver", metavar="ADDR:PORT", help="DNS server to ask.")
@click.option(
    "--server",
    multiple=True,
    metavar="DOMAIN=HOST:PORT",
    help="Where a domain's server is, in place of DNS.",
)
@click.option(
    "--tls",
    multiple=True,
    metavar="DOMAIN=starttls|direct|off",
    help="How a domain's server is spoken to; off on this machine only.",
)
@click.option("--ca", metavar="FILE", help="Further trust anchors, PEM.")
@click.option(
    "--log-level", metavar="LEVEL", help="debug, info (default), warning or error."
)
@click.option("--log-json", is_flag=True, default=None, help="Log one JSON per line.")
@click.option(
    f"--{PUBLIC_SWITCH}",
    is_flag=True,
    default=None,
    help="Allow listeners that other machines reach. Passwords then cross a network.",
)
@click.pass_context
def run(ctx: click.Context, /, **options: object) -> int:
    """Stand between clients on this machine and their servers.

    Every option has a TILLIE_ variable (TILLIE_LISTEN) and a key in the TOML file
    (listen). Default: --listen 127.0.0.1:5222.
    """
    # Before anything is opened: no file of ours is ever readable by others.
    os.umask(0o077)
    config = load({**options, **ctx.meta}, os.environ)
    for warning in config.warnings:
        click.echo(f"tillie: warning: {escaped(warning)}", err=True)
    # Twisted and the cryptography come with it; no other command needs them.
    from .service import run as serve

    return serve(config)


# -- commands that ask ------------------------------------------------------

_JSON = "Print JSON, for programs."
_ACCOUNT = "Of this account only."


@dataclass(frozen=True)
class _Asked:
    """Where a command asks and how it shows what it hears."""

    state: Path
    account: str | None
    as_json: bool

    def ask(self, command: str, **args: object) -> Any:
        return ask(self.state, command, account=self.account, **args)

    def show(self, result: object, as_text: Callable[[Any], str]) -> None:
        if self.as_json:
            # Escaped to ASCII by json: as harmless to a terminal as the rest.
            click.echo(json.dumps(result, indent=2))
            return
        try:
            text = as_text(result)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Fault(
                "Tillie's answer was not understood",
                hint="the running Tillie may be of another version: restart it",
            ) from error
        if text:
            click.echo(text)


def _asking(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give *command* the options of all that ask; its first argument is `_Asked`."""

    @functools.wraps(command)
    def asking(
        state: str | None, account: str | None, as_json: bool, **rest: object
    ) -> int | None:
        parent = click.get_current_context().parent
        # "devices --json remove ID" means what "devices remove ID --json" means.
        outer = parent.params if parent else {}
        folder = state_folder({"state": state or outer.get("state")}, os.environ)
        asked = _Asked(
            folder,
            account or outer.get("account"),
            as_json or bool(outer.get("as_json")),
        )
        return command(asked, **rest)

    for option in (
        click.option(
            "--json", "as_json", is_flag=True, envvar="TILLIE_JSON", help=_JSON
        ),
        click.option(
            "--account", envvar="TILLIE_ACCOUNT", metavar="JID", help=_ACCOUNT
        ),
        click.option("--state", metavar="DIR", help="The running Tillie's folder."),
    ):
        asking = option(asking)
    return asking


@tillie.command()
@_asking
def status(asked: _Asked) -> None:
    """Show accounts, listeners and how many notices wait."""
    asked.show(asked.ask("status"), status_text)


@tillie.command()
@_asking
def contacts(asked: _Asked) -> None:
    """Show whose keys are known, how well, and what holds for each."""
    columns = ("jid", "level", "policy", "devices", "since", "last_seen_key")
    asked.show(
        asked.ask("contacts"),
        lambda found: table_text(found, (*columns, "fingerprint"), "no contacts yet"),
    )


@tillie.command()
@_asking
def notices(asked: _Asked) -> None:
    """Show what Tillie had to say, oldest first."""
    asked.show(
        asked.ask("notices"),
        lambda found: table_text(
            found, ("time", "account", "jid", "text"), "no notices"
        ),
    )


@tillie.group(invoke_without_command=True)
@_asking
def devices(asked: _Asked) -> None:
    """Show this account's devices; "name", "remove" and "rollover" change them."""
    if click.get_current_context().invoked_subcommand is None:
        columns = ("id", "name", "added", "removed", "this")
        asked.show(
            asked.ask("devices"),
            lambda found: table_text(found, columns, "no devices yet"),
        )


@devices.command("name")
@click.argument("words", metavar="[ID] NAME", nargs=-1, required=True)
@_asking
def devices_name(asked: _Asked, words: tuple[str, ...]) -> None:
    """Give the device ID, or this one, a NAME."""
    if len(words) > 2:
        raise click.UsageError(
            "at most an ID and a NAME are taken; a name with spaces needs quotes",
            click.get_current_context(),
        )
    device = words[0] if len(words) == 2 else None
    asked.show(asked.ask("devices-name", id=device, name=words[-1]), device_text)


@devices.command("remove")
@click.argument("device", metavar="ID")
@_asking
def devices_remove(asked: _Asked, device: str) -> None:
    """Take the device ID off the account for good."""
    asked.show(asked.ask("devices-remove", id=device), device_text)


@devices.command("rollover")
@click.option("--alone", is_flag=True, help="Other devices are linked again later.")
@_asking
def devices_rollover(asked: _Asked, alone: bool) -> None:
    """Give the account new keys, signed by the old ones: contacts follow by themselves.

    Only where the keys were made. If they were stolen this does not help: ask the
    server's administrator for a reset.
    """
    answer = asked.ask("devices-rollover", alone=alone or None)
    asked.show(answer, rollover_text)


@tillie.command()
@click.argument("code", required=False)
@_asking
def link(asked: _Asked, code: str | None) -> None:
    """Show a one-time code, or join an account with the CODE of another device.

    "-" reads the code from standard input, out of sight of process lists.
    """
    if code == "-":
        code = sys.stdin.readline().strip()
        if not code:
            raise click.UsageError("there was no code on standard input")
    asked.show(asked.ask("link", code=code), link_text)


@tillie.command()
@click.argument("jid")
@click.argument("code")
@_asking
def enrol(asked: _Asked, jid: str, code: str) -> None:
    """Keep the CODE of JID's administrator for the first login of JID.

    Where one was given out, the first key of the account is taken only with it.
    "-" reads the code from standard input, out of sight of process lists.
    """
    if code == "-":
        code = sys.stdin.readline().strip()
    asked.show(asked.ask("enrol", jid=jid, code=code), enrol_text)


@tillie.command()
@click.argument("jid")
@_asking
def allow(asked: _Asked, jid: str) -> None:
    """Let messages to JID leave in the clear until there is a key for it."""
    asked.show(asked.ask("allow", jid=jid), policy_text)


@tillie.command()
@click.argument("jid")
@_asking
def require(asked: _Asked, jid: str) -> None:
    """Never send JID anything in the clear."""
    asked.show(asked.ask("require", jid=jid), policy_text)


@tillie.command()
@click.argument("jid")
@_asking
def forget(asked: _Asked, jid: str) -> None:
    """Forget what is known and was decided of JID: its keys are new again."""
    asked.show(asked.ask("forget", jid=jid), policy_text)


@tillie.command()
@_asking
def doctor(asked: _Asked) -> int:
    """Check the port, DNS, the server's certificate and its PEP."""
    checks = asked.ask("doctor")
    asked.show(checks, doctor_text)
    return DONE if all_well(checks) else FAILED


# -- commands to come -------------------------------------------------------


def _to_come(name: str, summary: str) -> None:
    @tillie.command(
        name,
        help=f"{summary} (Not built yet.)",
        short_help=f"{summary} (not built yet)",
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("rest", nargs=-1, type=click.UNPROCESSED)
    def command(rest: tuple[str, ...]) -> None:
        raise Fault(
            f"{name} is not built yet",
            hint="tillie --help lists what is there",
        )


_to_come("verify", "Compare a contact's fingerprint and keep the result.")
_to_come("export", "Write the account's keys to a file.")
_to_come("import", "Read the account's keys from a file.")
_to_come("service", "Start Tillie with the machine.")
tillie.add_command(gate)
gate.add_command(gatesetup.config)
gate.add_command(gatesetup.check)
