"""The one judgement of what a message shows outside its seal; that it refuses content
in every position is tested through the guard (tests/unit/core/test_guard.py)."""

from __future__ import annotations

import pytest

from proxy.errors import PeerFault
from proxy.rules import marks, seals
from proxy.suites import lanes
from proxy.suites.fields import b64
from proxy.wire import tree

SEAL = "urn:x-tillie:seal:0"
LANE = "urn:x-tillie:lane:0"
PAYLOAD = b64(bytes((0, 1, 0)) + bytes(lanes.SMALLEST))


def check(text: str, root: frozenset[str] = seals.ROOT) -> None:
    seals.check_sealed(tree.parse(text.encode()), root)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            f'<message id="1" type="chat" to="b@b.test"><store xmlns="urn:xmpp:hints"/>'
            f"<s:encrypted xmlns:s='{SEAL}'><s:payload>{PAYLOAD}</s:payload></s:encrypted>"
            "</message>",
            id="other-order-quotes-and-prefixes",
        ),
        pytest.param(
            f"<message to='b@b.test'><encrypted xmlns='{SEAL}'><payload>{PAYLOAD}</payload>"
            "</encrypted><amp xmlns='http://jabber.org/protocol/amp' per-hop='true'>"
            "<rule value='x' action='drop' condition='deliver'/></amp></message>",
            id="attributes-in-another-order",
        ),
        pytest.param(
            f"<message to='b@b.test'><transient xmlns='{SEAL}'><payload>{PAYLOAD}</payload>"
            "</transient><no-store xmlns='urn:xmpp:hints'/></message>",
            id="transient",
        ),
    ],
)
def test_structure_counts_not_bytes(text: str) -> None:
    check(text)


def test_a_servers_from_is_allowed_only_where_it_is_named() -> None:
    text = (
        "<message from='a@a.test/x' to='b@b.test'>"
        f"<encrypted xmlns='{SEAL}'><payload>{PAYLOAD}</payload></encrypted></message>"
    )
    with pytest.raises(PeerFault):
        check(text)
    check(text, seals.ROOT | {"from"})


@pytest.mark.parametrize(
    "beside",
    [
        "<body>hello</body>",
        f"<body xml:lang='en'>{marks.FALLBACK_BODY}</body>",
        "<amp xmlns='http://jabber.org/protocol/amp'><rule note='words'/></amp>",
        "<amp xmlns='http://jabber.org/protocol/amp'><rule>words</rule></amp>",
        "<x xmlns='jabber:x:conference' jid='r@m.test' reason='words'/>",
        "<encryption xmlns='urn:xmpp:eme:0' namespace='urn:other' name='Tillie'/>",
        f"<keyreq xmlns='{LANE}'>AAAA</keyreq>",
    ],
)
def test_enc_02_nothing_is_said_beside_a_seal(beside: str) -> None:
    with pytest.raises(PeerFault):
        check(
            f"<message to='b@b.test'><encrypted xmlns='{SEAL}'>"
            f"<payload>{PAYLOAD}</payload></encrypted>{beside}</message>"
        )


@pytest.mark.parametrize(
    ("element", "good"),
    [
        (f"<keyreq xmlns='{LANE}' lane='AAAA' n='1'>AAAA</keyreq>", True),
        (f"<keyreq xmlns='{LANE}' lane='AAAA' what='words'>AAAA</keyreq>", False),
        (
            f"<link-request xmlns='{LANE}' label='desk' mac='AAAA'>AA==</link-request>",
            True,
        ),
        (f"<link-answer xmlns='{LANE}'><body>words</body></link-answer>", False),
        (f"<grants xmlns='{LANE}' device='AA==' seq='1'/>", True),
        (f"<grants xmlns='{LANE}' device='AA==' seq='1'>words</grants>", False),
    ],
)
def test_enc_02_own_messages_have_a_shape(element: str, good: bool) -> None:
    message = tree.parse(f"<message to='b@b.test'>{element}</message>".encode())
    if good:
        seals.check_own(message)
    else:
        with pytest.raises(PeerFault):
            seals.check_own(message)
