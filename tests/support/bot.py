"""A plain slixmpp client as a program: JSON lines in, JSON lines out.

It knows nothing of Tillie. Arguments: JID, port, "plain" or "starttls"; the
password is the first line on standard input. Commands, one object a line:

{"do": "send", "to": JID, "body": text, "id": id, "kind": "chat"}
{"do": "raw", "xml": text}        {"do": "ping"}        {"do": "quit"}

Events: `online` (jid), `message` (from, to, body, id, type, xml), `error` (from,
id, condition, text, xml), `pong`, `failed` (condition, text; one login attempt),
`refused` (text; the last of them), `stream-error` (condition, text), `offline`.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from typing import Any

from slixmpp import JID, ClientXMPP


def tell(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


class Bot(ClientXMPP):
    """Reports what reaches it; answers nothing by itself."""

    def __init__(self, jid: str, password: str, *, encrypted: bool) -> None:
        super().__init__(
            jid,
            password,
            plugin_config={"feature_mechanisms": {"unencrypted_plain": True}},
        )
        self.enable_direct_tls = False
        self.enable_starttls = encrypted
        self.enable_plaintext = not encrypted
        if encrypted:
            # The local certificate is Tillie's own: nothing here knows its CA.
            self.ssl_context.check_hostname = False
            self.ssl_context.verify_mode = ssl.CERT_NONE
        self.leaving = False
        for plugin in ("xep_0030", "xep_0199", "xep_0280"):
            self.register_plugin(plugin)
        self.add_event_handler("session_start", self.begun)
        self.add_event_handler("message", self.heard)
        self.add_event_handler("message_error", self.returned)
        self.add_event_handler("failed_auth", self.failed)
        self.add_event_handler("failed_all_auth", self.refused)
        self.add_event_handler("stream_error", self.broken)
        self.add_event_handler("disconnected", self.ended)

    def begun(self, _: Any) -> None:
        self.send_presence()
        tell("online", jid=str(self.boundjid))

    def heard(self, message: Any) -> None:
        if message["type"] != "error":
            tell(
                "message",
                **{"from": str(message["from"]), "to": str(message["to"])},
                body=message["body"],
                id=message["id"],
                type=message["type"],
                xml=str(message),
            )

    def returned(self, message: Any) -> None:
        tell(
            "error",
            **{"from": str(message["from"])},
            id=message["id"],
            condition=message["error"]["condition"],
            text=message["error"]["text"],
            xml=str(message),
        )

    def failed(self, failure: Any) -> None:
        tell("failed", condition=failure["condition"], text=failure["text"])

    def refused(self, stanza: Any) -> None:
        tell("refused", text=str(stanza))

    def broken(self, error: Any) -> None:
        tell("stream-error", condition=error["condition"], text=error["text"])

    def ended(self, _: Any) -> None:
        tell("offline")
        if self.leaving:
            asyncio.get_event_loop().stop()

    async def obey(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "send":
                message = self.make_message(
                    mto=command["to"],
                    mbody=command["body"],
                    mtype=command.get("kind", "chat"),
                )
                if command.get("id"):
                    message["id"] = command["id"]
                message.send()
            case "raw":
                self.send_raw(command["xml"])
            case "ping":
                await self.plugin["xep_0199"].send_ping(
                    JID(self.boundjid.host), timeout=10
                )
                tell("pong")
            case "quit":
                self.leaving = True
                self.disconnect(wait=2)


async def listen(bot: Bot) -> None:
    reader = asyncio.StreamReader(limit=1 << 22)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        await bot.obey(json.loads(line))
    bot.leaving = True
    bot.disconnect(wait=2)


def main() -> None:
    jid, port, mode = sys.argv[1:4]
    # Unbuffered, so that the lines behind the password stay for the loop.
    password = b""
    while not password.endswith(b"\n"):
        password += os.read(sys.stdin.fileno(), 1)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    bot = Bot(jid, password.decode().strip(), encrypted=mode == "starttls")
    bot.connect("127.0.0.1", int(port))
    task = loop.create_task(listen(bot))
    loop.run_forever()
    task.cancel()


if __name__ == "__main__":
    main()
