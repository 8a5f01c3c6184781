"""A second device joins by a code (I5)."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import pytest

from proxy.core import directory, linking
from proxy.core.identity import Standing
from proxy.errors import Fault, TrustFault
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    Client,
    Couple,
    Tillie,
    couple,
    link,
    parsed,
    sealed,
)

KEY = (ALICE, directory.KEY)


def newcomer(c: Couple) -> tuple[Tillie, Client]:
    tillie = c.world.tillie()
    return tillie, c.world.login(tillie, ALICE, "new")


def standing(tillie: Tillie) -> Standing:
    return tillie.account(ALICE).identity.standing


def test_i05_unlinked_device_makes_no_keys_and_sends_nothing() -> None:
    c = couple()
    before = render(c.world.pep[KEY]["current"])
    tillie, new = newcomer(c)
    assert standing(tillie) is Standing.LINKING
    new.say(BOB, "not linked yet", ident="m")
    assert [one.get("id") for one in new.errors] == ["m"]
    assert sealed(new.upstream.stanzas) == []
    assert b"not linked yet" not in c.world.wire
    assert render(c.world.pep[KEY]["current"]) == before


@pytest.mark.parametrize("then", ["gone", "empty"])
def test_enc_23_withheld_own_record_makes_no_second_root(then: str) -> None:
    """A device that has seen the account's keys never makes others by itself."""
    c = couple()
    tillie, new = newcomer(c)
    new.close()
    saved = c.world.pep.pop(KEY)
    if then == "empty":
        c.world.pep[KEY] = {}
    c.world.login(tillie, ALICE, "new")
    assert not tillie.account(ALICE).identity.has_manifest
    assert not c.world.pep.get(KEY)
    c.world.pep[KEY] = saved
    assert c.account.identity.ready


def test_i05_linked_device_is_in_the_manifest_and_writes() -> None:
    c = couple()
    tillie, new = newcomer(c)
    link(c.a, tillie, ALICE)
    assert standing(tillie) is Standing.READY
    assert len(c.account.identity.manifest.active) == 2
    assert not tillie.account(ALICE).identity.owner
    new.say(BOB, "from the new device")
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "from the new device"


def test_i05_messages_of_linking_are_never_stored_or_copied() -> None:
    c = couple()
    tillie, _ = newcomer(c)
    seen: list[Element] = []

    def look(_: object, stanza: Element) -> None:
        if any(child.tag in (linking.REQUEST, linking.ANSWER) for child in stanza):
            seen.append(stanza)

    c.world.leaving = look
    link(c.a, tillie, ALICE)
    assert len(seen) == 2
    for one in seen:
        names = {child.tag.partition("}")[2] for child in one}
        assert {"no-store", "no-copy"} <= names
        assert (one.get("to") or "").startswith(f"{ALICE}/")


@pytest.mark.parametrize("code", ["", "AAAAA", "0" * 26, "not a code at all!", "ÄÖÜ"])
def test_text_that_is_no_code(code: str) -> None:
    with pytest.raises(TrustFault):
        linking.read_code(code)


def test_code_survives_how_people_write_it() -> None:
    code = bytes(range(16))
    shown = linking.show_code(code)
    assert len(shown.replace("-", "")) == 26
    for text in (shown, shown.lower(), shown.replace("-", " "), f" {shown}\n"):
        assert linking.read_code(text) == code


def test_i05_wrong_code_is_refused_and_changes_nothing() -> None:
    c = couple()
    tillie, _ = newcomer(c)
    c.a.command("link", account=ALICE)
    with pytest.raises(Fault):
        tillie.command("link", account=ALICE, code=linking.show_code(bytes(16)))
    assert standing(tillie) is Standing.LINKING
    assert len(c.account.identity.manifest.active) == 1


def test_i05_code_is_good_once_and_for_ten_minutes() -> None:
    c = couple()
    offer = c.a.command("link", account=ALICE)
    assert isinstance(offer, dict)
    c.world.now += 10 * 60_000 + 1
    tillie, _ = newcomer(c)
    replies: list[object] = []
    tillie.call(
        None,
        lambda: tillie.house.command(
            "link", {"account": ALICE, "code": offer["code"]}, replies.append
        ),
    )
    c.world.settle()
    c.world.wait(25_000)
    assert len(replies) == 1
    assert isinstance(replies[0], Fault)
    assert len(c.account.identity.manifest.active) == 1


def test_i05_used_code_lets_no_second_device_in() -> None:
    c = couple()
    first, _ = newcomer(c)
    offer = c.a.command("link", account=ALICE)
    assert isinstance(offer, dict)
    first.command("link", account=ALICE, code=offer["code"])
    third = c.world.tillie()
    c.world.login(third, ALICE, "third")
    replies: list[object] = []
    third.call(
        None,
        lambda: third.house.command(
            "link", {"account": ALICE, "code": offer["code"]}, replies.append
        ),
    )
    c.world.settle()
    c.world.wait(25_000)
    assert isinstance(replies[0], Fault)
    assert len(c.account.identity.manifest.active) == 2


def test_i05_guessing_ends_the_offer() -> None:
    c = couple()
    offer = c.a.command("link", account=ALICE)
    assert isinstance(offer, dict)
    for _ in range(linking.MOST_TRIES):
        tillie, new = newcomer(c)
        with pytest.raises(Fault):
            tillie.command("link", account=ALICE, code=linking.show_code(bytes(16)))
        new.close()
    tillie, _ = newcomer(c)
    replies: list[object] = []
    tillie.call(
        None,
        lambda: tillie.house.command(
            "link", {"account": ALICE, "code": offer["code"]}, replies.append
        ),
    )
    c.world.settle()
    c.world.wait(25_000)
    assert len(c.account.identity.manifest.active) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("label", "another name"),
        ("root", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("mac", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("", "AAAA"),
    ],
    ids=lambda x: str(x)[:8] or "signature",
)
def test_i05_changed_request_links_nobody(name: str, value: str) -> None:
    """The server replaces the newcomer's key by one of its own, or anything else."""
    c = couple()
    tillie, _ = newcomer(c)
    offer = c.a.command("link", account=ALICE)
    assert isinstance(offer, dict)

    def bend(_: object, stanza: Element) -> None:
        for child in stanza:
            if child.tag == linking.REQUEST and name:
                child.set(name, value)
            elif child.tag == linking.REQUEST:
                child.text = value

    c.world.leaving = bend
    replies: list[object] = []
    tillie.call(
        None,
        lambda: tillie.house.command(
            "link", {"account": ALICE, "code": offer["code"]}, replies.append
        ),
    )
    c.world.settle()
    c.world.wait(25_000)
    assert isinstance(replies[0], Fault)
    assert len(c.account.identity.manifest.active) == 1
    assert standing(tillie) is Standing.LINKING


@pytest.mark.parametrize("what", ["mac", "manifest", "other-root"])
def test_i05_changed_answer_is_not_taken(what: str) -> None:
    c = couple()
    tillie, _ = newcomer(c)
    offer = c.a.command("link", account=ALICE)
    assert isinstance(offer, dict)
    old = c.account.identity.manifest.document

    def bend(_: object, stanza: Element) -> None:
        for child in stanza:
            if child.tag != linking.ANSWER:
                continue
            if what == "mac":
                child.set("mac", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
            elif what == "manifest":
                child.text = old
            else:
                child.text = c.b.account(BOB).identity.manifest.document

    c.world.leaving = bend
    replies: list[object] = []
    tillie.call(
        None,
        lambda: tillie.house.command(
            "link", {"account": ALICE, "code": offer["code"]}, replies.append
        ),
    )
    c.world.settle()
    c.world.wait(25_000)
    assert isinstance(replies[0], Fault)
    assert standing(tillie) is Standing.LINKING
    assert not tillie.account(ALICE).identity.has_manifest


@pytest.mark.parametrize(
    "sender", [f"{BOB}/one", "mallory@x.test", "a.test", ALICE + ".evil"]
)
def test_i05_strangers_cannot_ask_to_be_linked(sender: str) -> None:
    c = couple()
    c.a.command("link", account=ALICE)
    since = len(c.alice.upstream.stanzas)
    request = parsed(
        f"<message from='{sender}' to='{ALICE}/one'>"
        "<link-request xmlns='urn:x-tillie:lane:0' device='AAAA' label='x' mac='AAAA'"
        " root='AAAA'>AAAA</link-request></message>"
    )
    for _ in range(linking.MOST_TRIES + 1):
        c.world.inject(c.alice, request)
    assert len(c.alice.upstream.stanzas) == since
    tillie, _ = newcomer(c)
    link(c.a, tillie, ALICE)
    assert standing(tillie) is Standing.READY


def test_removed_device_is_told_and_seals_no_more() -> None:
    c = couple()
    tillie, new = newcomer(c)
    link(c.a, tillie, ALICE)
    device = tillie.account(ALICE).identity.device
    c.a.command("devices-remove", account=ALICE, id=device.id.hex())
    c.world.wait(3_000)
    new.close()
    new = c.world.login(tillie, ALICE, "new")
    assert standing(tillie) is Standing.LINKING
    new.say(BOB, "removed", ident="m")
    assert [one.get("id") for one in new.errors] == ["m"]
    assert directory.PREKEY not in str(
        c.world.pep[ALICE, directory.PREKEY].get(device.id.hex())
    )


def test_other_root_published_for_the_account_stops_sending() -> None:
    """Somebody with the password publishes other keys: alarm, nothing overwritten."""
    c = couple()
    c.alice.close()
    saved = {key: c.world.pep.pop(key) for key in list(c.world.pep) if key[0] == ALICE}
    thief = c.world.tillie()
    c.world.login(thief, ALICE, "thief").close()
    assert saved[KEY] != c.world.pep[KEY]
    stolen = render(c.world.pep[KEY]["current"])
    alice = c.world.login(c.a, ALICE, "one")
    assert c.account.identity.standing is Standing.ALARM
    alice.say(BOB, "nobody reads this", ident="m")
    assert [one.get("id") for one in alice.errors] == ["m"]
    assert sealed(alice.upstream.stanzas) == []
    assert render(c.world.pep[KEY]["current"]) == stolen


def test_who_is_linked_to_another_root_seals_to_the_own_devices_there() -> None:
    """The device with the root is lost, another one made new keys for the account."""
    c = couple()
    tillie, laptop = newcomer(c)
    link(c.a, tillie, ALICE)
    laptop.say(BOB, "while the first one was there")
    c.world.wait(20_000)
    account = tillie.account(ALICE)
    assert [one.device for one in account.own_readers()] == [
        c.account.identity.device.public
    ]
    c.alice.close()
    laptop.close()
    for key in [key for key in c.world.pep if key[0] == ALICE]:
        del c.world.pep[key]
    third = c.world.tillie()
    c.world.login(third, ALICE, "phone")
    laptop = c.world.login(tillie, ALICE, "new")
    assert standing(tillie) is Standing.ALARM
    link(third, tillie, ALICE)
    c.b.command("forget", account=BOB, jid=ALICE)
    c.world.wait(60_000)
    laptop.say(BOB, "from the laptop")
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "from the laptop"
    theirs = third.account(ALICE).identity.device.public
    assert [one.device for one in account.own_readers()] == [theirs]


# -- a device that was removed ----------------------------------------------------


def page(stanza: Element) -> str:
    """*stanza* as the own archive gives it back (XEP-0313)."""
    stanza.set("from", f"{BOB}/one")
    return (
        f"<message from='{ALICE}'><result xmlns='urn:xmpp:mam:2' id='1'>"
        f"<forwarded xmlns='urn:xmpp:forward:0'>{render(stanza)}</forwarded>"
        "</result></message>"
    )


def removed() -> tuple[Couple, Tillie, Client, list[Element]]:
    """The second device was removed; what came for it before, sealed."""
    c = couple()
    tillie, new = newcomer(c)
    link(c.a, tillie, ALICE)
    new.say(BOB, "hello from the second")
    c.world.wait(20_000)
    c.bob.say(ALICE, "to both of yours")
    assert new.bodies[-1] == "to both of yours"
    came = [one for one in sealed(c.bob.upstream.stanzas) if one.get("to") == ALICE]
    device = tillie.account(ALICE).identity.device
    c.a.command("devices-remove", account=ALICE, id=device.id.hex())
    new.close()
    return c, tillie, c.world.login(tillie, ALICE, "new"), came


def test_i08_a_removed_device_joins_again_under_a_new_key() -> None:
    c, tillie, new, _ = removed()
    identity = tillie.account(ALICE).identity
    gone = identity.device.public
    assert identity.standing is Standing.LINKING
    link(c.a, tillie, ALICE)
    assert identity.standing is Standing.READY
    assert identity.device.public != gone
    listed = c.account.identity.manifest.device(gone)
    assert listed is not None
    assert listed.removed is not None
    new.say(BOB, "here again")
    c.world.wait(20_000)
    assert c.bob.bodies[-1] == "here again"
    c.bob.say(ALICE, "welcome")
    assert new.bodies[-1] == c.alice.bodies[-1] == "welcome"


def test_i08_what_a_removed_device_read_it_reads_again() -> None:
    c, tillie, new, came = removed()
    link(c.a, tillie, ALICE)
    tillie.restart()
    new = c.world.login(tillie, ALICE, "new")
    c.world.inject(new, page(came[-1]))
    assert b"to both of yours" in new.raw


def test_i08_what_was_granted_to_the_old_key_and_not_read_yet_is_read() -> None:
    """It lay in the archive when the device was removed: key and prekey are kept."""
    c = couple()
    tillie, new = newcomer(c)
    link(c.a, tillie, ALICE)
    new.say(BOB, "hello from the second")
    c.world.wait(20_000)
    new.close()
    c.bob.say(ALICE, "while it was away")
    [came] = [
        one for one in sealed(c.bob.upstream.stanzas)[-1:] if one.get("to") == ALICE
    ]
    device = tillie.account(ALICE).identity.device
    c.a.command("devices-remove", account=ALICE, id=device.id.hex())
    c.world.offline.clear()
    new = c.world.login(tillie, ALICE, "new")
    link(c.a, tillie, ALICE)
    c.world.inject(new, page(came))
    assert b"while it was away" in new.raw


def test_i08_a_removed_device_gets_nothing_by_a_new_key_alone() -> None:
    """Without a code the new key is nobody's."""
    c, tillie, new, _ = removed()
    c.a.command("link", account=ALICE)
    with pytest.raises(Fault):
        tillie.command("link", account=ALICE, code=linking.show_code(bytes(16)))
    identity = tillie.account(ALICE).identity
    assert identity.standing is Standing.LINKING
    c.bob.say(ALICE, "a secret")
    assert "a secret" not in new.bodies
    assert b"a secret" not in new.raw
    # and one more attempt makes no further key
    key = identity.device.public
    link(c.a, tillie, ALICE)
    assert identity.device.public == key


@pytest.mark.parametrize("owner", [True, False])
def test_who_has_the_root_or_belongs_to_the_account_never_starts_over(
    owner: bool,
) -> None:
    c = couple()
    tillie, new = newcomer(c)
    link(c.a, tillie, ALICE)
    asked, client = (c.a, c.alice) if owner else (tillie, new)
    key = asked.account(ALICE).identity.device.public
    with pytest.raises(Fault):
        asked.command("link", account=ALICE, code=linking.show_code(bytes(16)))
    client.close()
    with pytest.raises(Fault):
        asked.command("link", account=ALICE, code=linking.show_code(bytes(16)))
    assert asked.account(ALICE).identity.device.public == key
    assert asked.account(ALICE).identity.ready
