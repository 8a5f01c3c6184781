"""Keys and passwords: nowhere but in the encrypted store (LOC-11, LOC-14).

The fixture of every integration test searches for texts; this one searches, after a
run with everything in its log, for the bytes of all private keys as well.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from proxy.core.identity import Identity
from proxy.core.ratchets import Ratchets
from proxy.keys.sqlite import open_store
from proxy.keys.store import Store
from proxy.keys.storefiles import KEY_FILE

from ..support.bed import Bed
from ..support.canary import process
from ..support.raw import RawClient, RefusedError
from ..support.tillie import Tillie
from .test_conversations import ALICE, BOB, CAROL, ready

RAW = (Encoding.Raw, PrivateFormat.Raw, NoEncryption())


def private_keys(store: Store, jid: str, peer: str) -> Iterator[tuple[str, bytes]]:
    """By name: what must be nowhere in clear."""
    identity = Identity(store, jid)
    assert identity._root is not None
    yield "root, Ed25519", identity._root.ed25519
    yield "root, ML-DSA", identity._root.mldsa65
    yield "device", identity.device.seed
    prekey = identity.prekey(1)
    assert prekey is not None
    yield "prekey, X25519", prekey.x25519
    yield "prekey, ML-KEM", prekey.mlkem
    lane = Ratchets(store, identity).current(peer)
    assert lane is not None
    yield "lane, Ed25519", lane.secret.private_bytes(*RAW)
    yield "lane, first chain", lane.first.key
    yield "lane, chain", lane.chain.key


def forms(key: bytes) -> dict[str, bytes]:
    """How a key could lie somewhere, at any place of what is around it."""
    found = {
        "raw": key,
        "hex": key.hex().encode(),
        "HEX": key.hex().upper().encode(),
        "repr": repr(key)[2:-1].encode(),
        "list": ", ".join(map(str, key)).encode(),
    }
    for offset in range(3):
        coded = base64.b64encode(bytes(offset) + key)
        inner = coded[(offset * 8 + 5) // 6 : (offset + len(key)) * 8 // 6]
        found[f"base64 at {offset}"] = inner
        found[f"base64url at {offset}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return found


def places_of(key: bytes, searched: Mapping[str, bytes]) -> list[str]:
    return [
        f"{place}, {how}"
        for how, form in forms(key).items()
        for place, data in searched.items()
        if form in data
    ]


def provoke(bed: Bed, tillie: Tillie) -> None:
    """What goes wrong is written about: each of these fails in its own way."""
    with RawClient(tillie.port, "a.test", seconds=20) as client:
        client.open_stream()
        with pytest.raises(RefusedError):
            client.authenticate(ALICE, bed.canaries.secret())
    with RawClient(tillie.port, "a.test") as client:
        client.open_stream()
        client.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>&nbsp;")
        client.wait_closed()
    tillie.command("devices", "remove", "0123456789abcdef")
    tillie.command("allow", "not@an@address")
    tillie.command("link", "WRONG-CODE")


def test_loc_11_14_no_key_and_no_password_lies_anywhere_in_clear(bed: Bed) -> None:
    bed.start(ALICE, BOB, CAROL)
    one = bed.tillie("a", arguments=["--log-level", "debug"])
    two = bed.tillie("b", arguments=["--log-level", "debug", "--log-json"])
    alice, bob = bed.raw(ALICE, one.port), bed.raw(BOB, two.port)
    for each in (one, two):
        ready(each)
    for turn in range(3):
        alice.say(BOB, f"{bed.canaries.secret()} {turn}")
        bob.say(ALICE, f"{bed.canaries.secret()} {turn}")
    alice.message(" 2")
    bob.message(" 2")
    alice.say(CAROL, bed.canaries.secret())
    alice.wait_for(lambda stanza: stanza.get("type") == "error")
    provoke(bed, one)
    running = process(one.pid) | process(two.pid)
    for each in (one, two):
        each.restart()
        each.stop()
    searched = bed.places() | running
    keys: dict[str, bytes] = {}
    public: list[bytes] = []
    for label, tillie, jid, peer in (("a", one, ALICE, BOB), ("b", two, BOB, ALICE)):
        own = tillie.state / KEY_FILE
        keys[f"{label}: key file"] = own.read_bytes()
        assert searched.pop(str(own)) == own.read_bytes()
        store = open_store(tillie.state)
        keys |= {
            f"{label}: {name}": key for name, key in private_keys(store, jid, peer)
        }
        public.append(Identity(store, jid).device.public)
        store.close()
    assert len(keys) == 18
    assert {len(key) for key in keys.values()} <= {32, 64}
    for name, key in keys.items():
        assert places_of(key, searched) == [], name
    for key in public:
        assert places_of(key, searched), "the search does not find what is published"
    logs = (
        Path(one.folder / "errors").read_text()
        + Path(two.folder / "errors").read_text()
    )
    assert "Traceback" not in logs
