"""A stand-in for the running Tillie: canned answers on a real control socket.

``python -m tests.unit.app.answering STATE`` prints ``ready`` once it listens and
ends when its standard input does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from twisted.internet import defer, reactor, stdio
from twisted.internet.protocol import Protocol

from proxy.app.control import serve
from proxy.errors import Fault, TrustFault

FINGERPRINT = "2SXK 7QJD R4VN 8HTM"
CONTACT = {
    "jid": "bob@example.org",
    "level": "seen",
    "fingerprint": FINGERPRINT,
    "since": "2026-11-22T21:00:00Z",
    "devices": 2,
    "policy": "ask",
    "last_seen_key": "2026-11-22T21:30:00Z",
}
ANSWERS: dict[str, object] = {
    "status": {
        "version": "0.1.0",
        "accounts": [
            {
                "jid": "alice@example.org",
                "server": "192.0.2.1:5222",
                "connected": True,
                "gate": None,
                "token_expires": None,
            }
        ],
        "listeners": ["127.0.0.1:5222 (starttls)"],
        "notices": 2,
    },
    "contacts": [CONTACT, {**CONTACT, "jid": "eve\x1b[2J\u202emoc@example.org"}],
    "notices": [],
    "devices": [
        {
            "id": "d1",
            "name": "desk",
            "added": "2026-11-22T21:00:00Z",
            "removed": None,
            "this": True,
        }
    ],
    "doctor": [
        {"check": "port", "ok": True, "text": "127.0.0.1:5222 is ours", "hint": ""},
        {"check": "dns", "ok": False, "text": "no answer", "hint": "try --resolver"},
    ],
}


def handler(command: str, args: Mapping[str, object]) -> object:
    """Answer as the service would, or show what was asked."""
    match command:
        case "echo":
            return {"args": dict(args)}
        case "later":
            later: defer.Deferred[str] = defer.Deferred()
            reactor.callLater(0, later.callback, "at last")  # type: ignore[attr-defined]
            return later
        case "bug":
            raise RuntimeError("hunter2")
        case "unwritable":
            return object()
        case "allow" | "require" | "forget":
            if args["jid"] == "not a jid":
                raise TrustFault("that is no address", hint="for example bob@e.org")
            return {"jid": args["jid"], "policy": command}
        case "link":
            if "code" in args:
                return {"joined": args["code"] == "ABCD"}
            return {"code": "ABCD", "fingerprint": FINGERPRINT}
        case "devices-name" | "devices-remove":
            return {**args, "id": args.get("id", "d1"), "removed": "remove" in command}
        case _ if command in ANSWERS:
            return ANSWERS[command]
        case _:
            raise Fault(f"there is no command {command}")


class UntilInputEnds(Protocol):
    def connectionLost(self, reason: object = None) -> None:
        if reactor.running:  # type: ignore[attr-defined]
            reactor.stop()  # type: ignore[attr-defined]


def main() -> None:
    os.umask(0)
    port = serve(reactor, Path(sys.argv[1]), handler)
    reactor.addSystemEventTrigger(  # type: ignore[attr-defined]
        "before", "shutdown", port.stop
    )
    stdio.StandardIO(UntilInputEnds(), stdout=2)
    print("ready", flush=True)
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
