"""Extended addresses and security labels (XEP-0033, XEP-0258; protocol.md, 4.2.1,
4.6.1)."""

from __future__ import annotations

from copy import deepcopy
from xml.etree.ElementTree import Element

import pytest

from proxy.core.identity import Identity
from proxy.core.resending import again
from proxy.keys.store import MemoryStore
from proxy.wire.stanza import Cleared
from tests.support.simulator import (
    ALICE,
    BOB,
    BODY,
    CAROL,
    MESSAGE,
    Client,
    Couple,
    couple,
    sealed,
)

SERVICE = "multicast.a.test"
DAVE = "dave@d.test"
ADDRESSES = "{http://jabber.org/protocol/address}addresses"
LABEL = "{urn:xmpp:sec-label:0}securitylabel"


def addresses(*named: str, kind: str = "to") -> str:
    inner = "".join(f"<address type='{kind}' jid='{jid}'/>" for jid in named)
    return f"<addresses xmlns='http://jabber.org/protocol/address'>{inner}</addresses>"


def send(c: Couple, inner: str, to: str = SERVICE, kind: str = "normal") -> None:
    c.alice.send(
        f"<message to='{to}' type='{kind}' id='m'><body>to all of you</body>{inner}"
        "</message>"
    )


def left(client: Client) -> list[Element]:
    return [one for one in client.upstream.stanzas if one.tag == MESSAGE]


def allowed() -> Couple:
    """The service and Carol, who has no keys, may read in clear; Bob has keys."""
    c = couple(talked=False)
    c.world.accounts |= {CAROL, DAVE, SERVICE}
    c.a.command("allow", jid=SERVICE)
    c.a.command("allow", jid=CAROL)
    return c


@pytest.mark.parametrize("kind", ["to", "cc", "bcc"])
def test_enc_01_multicast_leaves_if_everybody_named_may_read_it(kind: str) -> None:
    c = allowed()
    send(c, addresses(CAROL, kind=kind))
    [message] = left(c.alice)
    assert message.findtext(BODY) == "to all of you"
    assert c.alice.errors == []


@pytest.mark.parametrize("kind", ["to", "cc", "bcc"])
@pytest.mark.parametrize("other", [BOB, f"{BOB}/one", DAVE])
@pytest.mark.parametrize("type_", ["normal", "groupchat"])
def test_enc_01_multicast_to_who_may_not_read_it_comes_back(
    kind: str, other: str, type_: str
) -> None:
    """Bob has keys and is written to under a seal alone; nobody asked about Dave."""
    c = allowed()
    send(c, addresses(CAROL) + addresses(other, kind=kind), kind=type_)
    c.world.wait(20_000)
    assert left(c.alice) == []
    [error] = c.alice.errors
    assert error.get("id") == "m"
    assert b"to all of you" not in c.world.wire


def test_multicast_names_a_bounded_number() -> None:
    c = allowed()
    send(c, addresses(*[CAROL] * 20))
    assert left(c.alice) == []
    assert len(c.alice.errors) == 1


def test_multicast_to_no_address_comes_back() -> None:
    c = allowed()
    send(c, addresses(CAROL, "@"))
    assert left(c.alice) == []
    assert len(c.alice.errors) == 1


def test_enc_01_multicast_is_judged_anew_before_it_is_sent_again() -> None:
    """Its arrival is in doubt, and Carol has keys by then."""
    c = allowed()
    kept: list[str] = []
    send_it = c.alice.session.uplink.send

    def spy(cleared: Cleared, **rest: object) -> None:
        kept.append(str(rest.get("clear_to", "")))
        send_it(cleared, **rest)  # type: ignore[arg-type]

    c.alice.session.uplink.send = spy  # type: ignore[method-assign,assignment]
    send(c, addresses(CAROL))
    [clear_to] = filter(None, kept)
    data = b"<message/>"
    with c.a.writing():
        assert again(c.account, data, clear_to) == Cleared(data)
        with (other := MemoryStore()).transaction():
            manifest = Identity(other, CAROL).create("one", c.world.now)
        c.account.contacts.learn(CAROL, manifest, [], c.world.now)
        assert again(c.account, data, clear_to) is None


def test_enc_02_addresses_to_an_account_are_content() -> None:
    """No server delivers by them; a contact may be told of others."""
    c = couple()
    send(c, addresses(CAROL, kind="cc"), to=BOB)
    [message] = sealed(c.alice.upstream.stanzas)[-1:]
    assert message.find(ADDRESSES) is None
    inside = c.bob.messages[-1].find(ADDRESSES)
    assert inside is not None
    assert [one.get("jid") for one in inside] == [CAROL]


def test_who_wrote_to_a_room_is_not_a_contacts_word() -> None:
    c = couple()
    send(c, addresses(CAROL, kind="ofrom") + addresses(CAROL, kind="replyto"), to=BOB)
    found = c.bob.messages[-1].findall(ADDRESSES)
    assert [one.get("type") for each in found for one in each] == ["replyto"]


# -- security labels --------------------------------------------------------------

ESS = "<esssecuritylabel xmlns='urn:xmpp:sec-label:ess:0'>{}</esssecuritylabel>"
SECRET = (
    "<securitylabel xmlns='urn:xmpp:sec-label:0'>"
    "<displaymarking bgcolor='red'>SECRET</displaymarking>"
    f"<label>{ESS.format('MQYCAQIGASk=')}</label></securitylabel>"
)


def labelled(c: Couple) -> Element:
    """A labelled message of Bob's that did not reach Alice."""
    with c.caught() as kept:
        c.bob.send(
            f"<message to='{ALICE}' type='chat'><body>text</body>{SECRET}</message>"
        )
    return kept[0]


def test_label_stands_outside_as_far_as_servers_decide_by_it() -> None:
    c = couple()
    send(c, SECRET, to=BOB)
    [message] = sealed(c.alice.upstream.stanzas)[-1:]
    outer = message.find(LABEL)
    assert outer is not None
    assert "".join(outer.itertext()) == "MQYCAQIGASk="
    inner = c.bob.messages[-1].find(LABEL)
    assert inner is not None
    assert "SECRET" in "".join(inner.itertext())
    assert c.bob.notices == []


@pytest.mark.parametrize("change", ["gone", "other", "added"])
def test_enc_04_another_label_around_the_seal_is_told(change: str) -> None:
    c = couple()
    message = labelled(c)
    outer = message.find(LABEL)
    assert outer is not None
    if change == "gone":
        message.remove(outer)
    elif change == "added":
        message.append(deepcopy(outer))
    else:
        for part in outer.iter():
            part.text = "MQYCAQQGASk=" if part.text else None
    c.world.inject(c.alice, message)
    assert c.alice.bodies[-1] == "text"
    inner = c.alice.messages[-1].findall(LABEL)
    assert ["".join(one.itertext()) for one in inner] == ["SECRETMQYCAQIGASk="]
    assert any("security label" in text for text in c.alice.notices)


def test_label_that_arrives_as_it_was_sent_is_not_told() -> None:
    c = couple()
    c.world.inject(c.alice, labelled(c))
    assert c.alice.bodies[-1] == "text"
    assert not any("security label" in text for text in c.alice.notices)


def test_res_13_too_much_outside_comes_back_and_uses_nothing_up() -> None:
    """Labels by the dozen: before this the index was used and a grant counted as sent,
    and the guard kept the stanza back."""
    c = couple(talked=False)
    many = "".join(
        f"<equivalentlabel>{ESS.format('MQYCAQIGASk=')}</equivalentlabel>"
        for _ in range(15)
    )
    labels = SECRET.replace("</securitylabel>", f"{many}</securitylabel>") * 3
    send(c, labels, to=BOB)
    assert sealed(c.alice.upstream.stanzas) == []
    [error] = c.alice.errors
    assert "outside the seal" in "".join(error.itertext())
    assert c.account.ratchets.current(BOB) is None
    send(c, SECRET, to=BOB)
    assert c.bob.bodies == ["to all of you"]


def test_res_13_the_largest_of_everything_fits_a_stanza() -> None:
    """The largest plaintext, ids and labels at their limit, grants as there is room."""
    c = couple(talked=False)
    room = f"<amp xmlns='http://jabber.org/protocol/amp'>{'<rule/>' * 350}</amp>"
    c.alice.send(
        f"<message to='{BOB}' type='chat' id='{'i' * 300}'>"
        f"<body>{'x' * 37_000}</body>{room}</message>"
    )
    assert c.alice.errors == []
    assert len(c.bob.bodies[-1]) == 37_000
