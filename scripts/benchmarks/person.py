"""A slixmpp client as a process, timed from inside; JSON lines in and out.

Arguments: JID, port, ``plain`` or ``omemo``, file descriptor of the side channel.
The password is the first line on standard input.  The two persons of a pair are
joined by the side channel (a datagram socket pair): the receiver tells the sender
how many messages its event handler has seen, so that a window can be kept without
any traffic of its own on the stream.

Commands, one object a line:

{"do": "window", "to": JID, "count": 1000, "size": 64}: send, at most `size` unseen
{"do": "pingpong", "to": JID, "count": 200}: one at a time, each echoed
{"do": "burst", "to": JID, "count": 50}: all at once, as fast as they are sealed
{"do": "role", "to": JID, "role": "count" | "echo"}: what to do with messages that come
{"do": "quit"}

Each command is answered by one line when it is done.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import sys
import time
from typing import Any, ClassVar

from slixmpp import ClientXMPP

BODY = "Shall we meet at the station at half past seven? I bring bread."
_CHAT = (
    "<message to='{to}' type='chat' id='{id}'><body>{body}</body>"
    "<active xmlns='http://jabber.org/protocol/chatstates'/>"
    "<request xmlns='urn:xmpp:receipts'/>"
    "<origin-id xmlns='urn:xmpp:sid:0' id='{id}'/></message>"
)


def chat(to: str, number: int) -> str:
    """The chat message that everything is measured with: 289 bytes to bob@b.test."""
    return _CHAT.format(to=to, id=f"m{number:013d}", body=BODY)


def tell(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class Person(ClientXMPP):
    """Sends and counts; see the module."""

    def __init__(self, jid: str, password: str, side: socket.socket) -> None:
        super().__init__(
            jid,
            password,
            plugin_config={"feature_mechanisms": {"unencrypted_plain": True}},
        )
        self.enable_direct_tls = False
        self.enable_starttls = False
        self.enable_plaintext = True
        self.side = side
        self.began = 0.0
        self.number = 0
        self.seen = 0
        self.told = 0
        self.echo = False
        self.waiting: asyncio.Future[None] | None = None
        self.target = 0
        self.window = 0
        self.to = ""
        self.sent = 0
        self.sizes: list[int] = []
        self.arrived = asyncio.Event()
        for plugin in ("xep_0030", "xep_0199"):
            self.register_plugin(plugin)
        self.add_event_handler("session_start", self.begun)
        self.add_event_handler("message", self.heard)
        self.add_event_handler("message_error", self.returned)

    def begin(self, port: int) -> None:
        self.began = time.perf_counter()
        self.connect("127.0.0.1", port)

    def begun(self, _: Any) -> None:
        self.send_presence()
        tell(event="online", seconds=time.perf_counter() - self.began)

    # -- receiving

    def heard(self, message: Any) -> None:
        if message["type"] != "error":
            self.got()

    def returned(self, message: Any) -> None:
        tell(event="error", text=str(message))

    def got(self) -> None:
        if self.echo:
            self.send_chat(self.to)
            return
        self.seen += 1
        self.arrived.set()
        if self.told != self.seen - 1:
            return
        self.loop.call_soon(self.report)

    def report(self) -> None:
        self.told = self.seen
        self.side.send(struct.pack("<Q", self.seen))

    # -- sending

    def send_chat(self, to: str) -> None:
        self.number += 1
        self.send_raw(chat(to, self.number))

    def side_ready(self) -> None:
        """The other person saw some more; let the window move."""
        try:
            while True:
                (self.acked,) = struct.unpack("<Q", self.side.recv(8))
        except BlockingIOError:
            pass
        self.fill()

    def fill(self) -> None:
        while self.sent < self.target and self.sent - self.acked < self.window:
            self.sent += 1
            self.send_chat(self.to)
        if self.acked >= self.target and self.waiting and not self.waiting.done():
            self.waiting.set_result(None)

    acked = 0

    async def finished(self, count: int) -> None:
        """Wait until the other person has seen `count` more than before."""
        self.target += count
        self.waiting = self.loop.create_future()
        self.fill()
        await asyncio.wait_for(self.waiting, 120)

    async def do_window(self, to: str, count: int, size: int) -> None:
        self.to, self.window = to, size
        began = time.perf_counter()
        await self.finished(count)
        tell(event="done", seconds=time.perf_counter() - began)

    async def do_pingpong(self, to: str, count: int) -> None:
        times = []
        for _ in range(count):
            self.arrived.clear()
            began = time.perf_counter()
            self.send_one(to)
            await asyncio.wait_for(self.arrived.wait(), 30)
            times.append(time.perf_counter() - began)
        tell(event="done", times=times)

    def send_one(self, to: str) -> None:
        self.send_chat(to)

    async def do_burst(self, to: str, count: int) -> None:
        await self.do_window(to, count, count)

    def do_role(self, role: str, to: str) -> None:
        self.echo, self.to = role == "echo", to
        tell(event="done")


def sealing() -> type[Person]:
    """The same with slixmpp-omemo; imported only where it is measured."""
    from omemo.storage import Just, Maybe, Nothing, Storage
    from slixmpp.plugins import register_plugin
    from slixmpp_omemo import XEP_0384, TrustLevel

    class Memory(Storage):
        """The fastest store that there can be: nothing is kept."""

        def __init__(self) -> None:
            super().__init__(disable_cache=True)
            self.values: dict[str, Any] = {}

        async def _load(self, key: str) -> Maybe[Any]:
            return Just(self.values[key]) if key in self.values else Nothing()

        async def _store(self, key: str, value: Any) -> None:
            self.values[key] = value

        async def _delete(self, key: str) -> None:
            self.values.pop(key, None)

    class XEP_0384Impl(XEP_0384):
        """Trusts everybody before verification, as its own example does."""

        default_config: ClassVar[dict[str, str]] = {
            "fallback_message": "This message is OMEMO encrypted."
        }

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._memory = Memory()

        @property
        def storage(self) -> Storage:
            return self._memory

        @property
        def _btbv_enabled(self) -> bool:
            return True

        async def _devices_blindly_trusted(self, *_: Any) -> None:
            pass

        async def _prompt_manual_trust(self, undecided: Any, *_: Any) -> None:
            manager = await self.get_session_manager()
            for device in undecided:
                await manager.set_trust(
                    device.bare_jid, device.identity_key, TrustLevel.TRUSTED.value
                )

    register_plugin(XEP_0384Impl)

    class Sealing(Person):
        """What leaves and arrives goes through OMEMO, in order."""

        def __init__(self, jid: str, password: str, side: socket.socket) -> None:
            super().__init__(jid, password, side)
            self.out: asyncio.Queue[str] = asyncio.Queue()
            self.into: asyncio.Queue[Any] = asyncio.Queue()
            self.tasks: list[asyncio.Task[None]] = []
            self.register_plugin("xep_0380")
            self.register_plugin("xep_0384", module=sys.modules[__name__])
            self.add_event_handler("omemo_initialized", self.initialized)

        def begun(self, _: Any) -> None:
            self.send_presence()
            self.plain_login = time.perf_counter() - self.began

        def initialized(self, _: Any) -> None:
            self.tasks = [
                self.loop.create_task(self.sender()),
                self.loop.create_task(self.opener()),
            ]
            tell(
                event="online",
                seconds=self.plain_login,
                published=time.perf_counter() - self.began,
            )

        def heard(self, message: Any) -> None:
            if self["xep_0384"].is_encrypted(message):
                self.into.put_nowait(message)

        def send_chat(self, to: str) -> None:
            self.out.put_nowait(to)

        async def sender(self) -> None:
            while True:
                to = await self.out.get()
                message = self.make_message(mto=to, mtype="chat", mbody=BODY)
                message.set_to(self.boundjid.__class__(to))
                sealed, _ = await self["xep_0384"].encrypt_message(
                    message, self.boundjid.__class__(to)
                )
                assert sealed is not None
                sealed["eme"]["namespace"] = "eu.siacs.conversations.axolotl"
                sealed["eme"]["name"] = "OMEMO"
                if len(self.sizes) < 3:
                    self.sizes.append(len(str(sealed).encode()))
                    tell(event="size", bytes=self.sizes[-1])
                sealed.send()

        async def opener(self) -> None:
            while True:
                message = await self.into.get()
                opened, _ = await self["xep_0384"].decrypt_message(message)
                if opened["body"] == BODY:
                    self.got()

    module = sys.modules[__name__]
    module.XEP_0384Impl = XEP_0384Impl  # type: ignore[attr-defined]
    return Sealing


async def obey(person: Person) -> None:
    reader = asyncio.StreamReader(limit=1 << 22)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        command = json.loads(line)
        match command.pop("do"):
            case "window":
                await person.do_window(**command)
            case "pingpong":
                await person.do_pingpong(**command)
            case "burst":
                await person.do_burst(**command)
            case "role":
                person.do_role(**command)
            case "quit":
                break
    person.disconnect(wait=1)
    await asyncio.sleep(0.1)
    person.loop.stop()


def password_line() -> str:
    # Unbuffered, so that the lines behind the password stay for the loop.
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(sys.stdin.fileno(), 1)
    return line.decode().strip()


def main() -> None:
    jid, port, kind, side_number = sys.argv[1:5]
    logging.disable(logging.CRITICAL)
    side = socket.socket(fileno=int(side_number))
    side.setblocking(False)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    made = sealing() if kind == "omemo" else Person
    person = made(jid, password_line(), side)
    loop.add_reader(side, person.side_ready)
    person.begin(int(port))
    task = loop.create_task(obey(person))
    loop.run_forever()
    task.cancel()


if __name__ == "__main__":
    main()
