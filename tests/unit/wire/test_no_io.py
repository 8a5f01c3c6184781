"""Whatever stands in a stream, reading it opens no file and no connection."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# An audit hook cannot be taken away again, so this runs in a process of its own.
READING = """
import sys
from proxy.rules import envelope
from proxy.wire import tree
from proxy.wire.framing import AFTER_LOGIN, BEFORE_LOGIN, Framer
from proxy.errors import PeerFault
from tests.support.badxml import BEHIND, FIRST, HEADER, PASSED

met = []
WATCHED = ("open", "socket.", "os.", "urllib", "subprocess", "import", "ctypes")
sys.addaudithook(lambda event, args: met.append((event, args))
                 if event.startswith(WATCHED) else None)

def read(data, limits):
    for step in (len(data), 1):
        framer = Framer(limits)
        for at in range(0, len(data), step):
            events = framer.feed(data[at : at + step])
            if events and type(events[-1]).__name__ == "Broken":
                break

for data, _ in FIRST.values():
    read(data, BEFORE_LOGIN)
for data in [data for data, _ in BEHIND.values()] + list(PASSED.values()):
    read(HEADER + data, AFTER_LOGIN)
    for whole in (data, b"<x>" + data + b"</x>"):
        try:
            tree.parse(whole)
        except PeerFault:
            pass
    try:
        envelope.read(b"<envelope xmlns='urn:xmpp:sce:1'><content>" + data + b"</content></envelope>")
    except PeerFault:
        pass
print(met)
open("/dev/null").close()
print([event for event, _ in met])
"""


def test_xml_10_46_nothing_is_opened_and_nobody_is_asked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", READING],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    # the second line shows that the hook sees what it is to see
    assert done.stdout.splitlines() == ["[]", "['open']"]
