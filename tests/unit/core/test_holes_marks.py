"""Holes that a reading found in what a client shows: marks avoided, marks imitated."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import pytest

from proxy.rules import marks
from tests.support.scripted import render
from tests.support.simulator import (
    ALICE,
    BOB,
    BODY,
    CARBONS,
    FORWARD,
    Couple,
    couple,
)

MAM = "urn:xmpp:mam:2"
EVIL = "pay mallory"
RESULT = f"<result xmlns='{MAM}' id='1'/>"


def clear(content: str, sender: str = f"{BOB}/one", kind: str = "chat") -> str:
    return (
        f"<message from='{sender}' to='{ALICE}/one' type='{kind}'>{content}</message>"
    )


def forwarded(inner: str, ns: str = "jabber:client") -> str:
    message = inner.replace("<message ", f"<message xmlns='{ns}' ", 1)
    return f"<forwarded xmlns='{FORWARD}'>{message}</forwarded>"


def archived(inner: str, sender: str, ns: str = "jabber:client") -> str:
    return (
        f"<message from='{sender}' to='{ALICE}/one'><result xmlns='{MAM}' id='1'>"
        f"{forwarded(inner, ns)}</result></message>"
    )


def shown(c: Couple, stanza: str) -> list[Element]:
    since = len(c.alice.messages)
    c.world.inject(c.alice, stanza)
    return c.alice.messages[since:]


def unmarked(messages: list[Element]) -> list[str]:
    """Texts that say it without the mark before them."""
    return [
        text
        for one in messages
        for text in one.itertext()
        if EVIL in text and not text.startswith(marks.CLEAR)
    ]


# -- 7: marks avoided -----------------------------------------------------------


AVOIDED = [
    pytest.param(clear(f"<body>{EVIL}</body>"), id="ENC-07-plain"),
    pytest.param(
        clear(f"<body>{EVIL}</body>{RESULT}"), id="ENC-07-archive-result-beside-it"
    ),
    pytest.param(
        clear(f"{RESULT}<body>{EVIL}</body>"), id="ENC-07-archive-result-before-it"
    ),
    pytest.param(
        clear(f"<body>{EVIL}</body><received xmlns='{CARBONS}'/>"),
        id="ENC-07-carbon-beside-it",
    ),
    pytest.param(
        clear(f"<body>{EVIL}</body>", kind="groupchat"), id="ENC-07-groupchat"
    ),
    pytest.param(clear(f"<body>{EVIL}</body>", kind="error"), id="ENC-07-error"),
    pytest.param(clear(f"<body>{EVIL}</body>", kind="headline"), id="ENC-07-headline"),
    pytest.param(
        clear(f"<body>{EVIL}</body>", kind="nonsense"), id="ENC-07-unknown-type"
    ),
    pytest.param(
        clear(f"<error type='cancel'><text>{EVIL}</text></error><body>{EVIL}</body>"),
        id="ENC-07-error-without-its-type",
    ),
    pytest.param(
        clear(f"<rtt xmlns='urn:xmpp:rtt:0' event='new'><t>{EVIL}</t></rtt>"),
        id="ENC-07-real-time-text",
    ),
    pytest.param(
        clear(f"<x xmlns='jabber:x:data' type='form'><title>{EVIL}</title></x>"),
        id="ENC-07-data-form",
    ),
    pytest.param(
        clear(
            f"<body>hi</body><x xmlns='jabber:x:data' type='form'><title>{EVIL}</title></x>"
        ),
        id="ENC-07-data-form-beside-a-body",
    ),
    pytest.param(
        clear(
            f"<nick xmlns='http://jabber.org/protocol/nick'>{EVIL}</nick><body>hi</body>"
        ),
        id="ENC-07-nick",
    ),
    pytest.param(
        clear(f"<body>{EVIL}</body>", sender=f"{ALICE}/other"), id="ENC-07-own-address"
    ),
    pytest.param(
        f"<message to='{ALICE}/one' type='chat'><body>{EVIL}</body></message>",
        id="ENC-07-no-address",
    ),
    pytest.param(
        archived(clear(f"<body>{EVIL}</body>"), ALICE), id="ENC-07-own-archive"
    ),
    pytest.param(
        archived(clear(f"<body>{EVIL}</body>"), BOB), id="ID-02-archive-of-the-contact"
    ),
    pytest.param(
        archived(clear(f"<body>{EVIL}</body>"), f"{BOB}/one"),
        id="ID-02-archive-of-a-client-of-the-contact",
    ),
    pytest.param(
        archived(clear(f"<body>{EVIL}</body>"), "mallory@x.test"),
        id="ID-02-archive-of-a-stranger",
    ),
    pytest.param(
        archived(clear(f"<body>{EVIL}</body>"), "room@muc.test"),
        id="ID-02-archive-of-a-room",
    ),
    pytest.param(
        archived(
            clear(f"<body>{EVIL}</body>", sender=f"{ALICE}/one"), "mallory@x.test"
        ),
        id="ID-02-archive-of-a-stranger-with-own-words",
    ),
    pytest.param(
        archived(
            f"<message to='{ALICE}'><body>{EVIL}</body></message>", "mallory@x.test"
        ),
        id="ID-02-archive-of-a-stranger-without-a-sender",
    ),
    pytest.param(
        archived(clear(f"<body>{EVIL}</body>"), "mallory@x.test", FORWARD),
        id="ID-02-archive-of-a-stranger-in-another-namespace",
    ),
]


@pytest.mark.parametrize("stanza", AVOIDED)
def test_enc_07_no_way_around_the_mark(stanza: str) -> None:
    """Each of these showed a text that nobody had sealed as if Bob's Tillie had."""
    c = couple()
    assert unmarked(shown(c, stanza)) == []


def test_a_rooms_own_archive_page_stays_what_it_is() -> None:
    """The other side of it: rooms have archives, and nobody's name is at stake."""
    c = couple()
    page = archived(
        clear("<body>old words</body>", sender="room@muc.test/nick", kind="groupchat"),
        "room@muc.test",
    )
    [one] = shown(c, page)
    assert "old words" in render(one)


def test_enc_07_no_fallback_range_over_the_mark() -> None:
    """``<fallback/>`` tells a client to leave out the first 24 letters of the body."""
    c = couple()
    [one] = shown(
        c,
        clear(
            f"<body>{EVIL}</body><reply xmlns='urn:xmpp:reply:0' id='7'/>"
            "<fallback xmlns='urn:xmpp:fallback:0' for='urn:xmpp:reply:0'>"
            "<body start='0' end='24'/></fallback>"
        ),
    )
    assert [child.tag for child in one] == [BODY]
    assert one.findtext(BODY) == marks.CLEAR + EVIL


@pytest.mark.parametrize("lang", ["", "xml:lang='de'"])
def test_enc_07_each_of_several_bodies_is_marked(lang: str) -> None:
    """A client chooses one by its language."""
    c = couple()
    messages = shown(c, clear(f"<body>hello</body><body {lang}>{EVIL}</body>"))
    assert messages
    assert unmarked(messages) == []


# -- 8: marks imitated ------------------------------------------------------------


ADVICE = "Tillie: your keys are broken, run tillie forget bob@b.test"


@pytest.mark.parametrize(
    "stanza",
    [
        pytest.param(
            f"<message from='m@m.test/{ADVICE}'><a "
            + " ".join(f"a{at}='1'" for at in range(70))
            + "/></message>",
            id="ENC-08-left-out-stanza",
        ),
        pytest.param(
            f"<message from='m@m.test/{ADVICE}'><keyreq xmlns='urn:x-tillie:lane:0'/></message>",
            id="ENC-08-malformed-key-request",
        ),
        pytest.param(
            f"<message from='{BOB}/{ADVICE}' type='chat'><encrypted"
            " xmlns='urn:x-tillie:seal:0'><payload>AAAA</payload></encrypted></message>",
            id="ENC-08-seal-that-does-not-hold",
        ),
        pytest.param(
            f"<message from='{BOB}/{ADVICE}' type='chat'><encrypted"
            " xmlns='urn:x-tillie:seal:0'/></message>",
            id="ENC-08-malformed-seal",
        ),
        pytest.param(
            f"<message from='{BOB}/{ADVICE}' type='chat'><body>hi</body></message>",
            id="ENC-08-clear-text",
        ),
    ],
)
def test_enc_08_a_resource_does_not_speak_in_notices(stanza: str) -> None:
    """Notices named full JIDs, and a resource is a sentence of its owner's choice."""
    c = couple()
    c.world.inject(c.alice, stanza)
    notices = [row["text"] + row["jid"] for row in c.a.command("notices")]  # type: ignore[union-attr, attr-defined]
    assert "broken" not in "".join(notices + c.alice.notices)


@pytest.mark.parametrize(
    "address",
    ["tillie@proxy.invalid", "tillie@proxy.invalid/x", "TILLIE@proxy.INVALID."],
)
@pytest.mark.parametrize("word", ["received", "sent"])
def test_enc_08_no_carbon_speaks_as_tillie(address: str, word: str) -> None:
    """Only the outer sender was looked at: the own server wrote notices by carbon."""
    c = couple()
    inner = clear(f"<body>{ADVICE}</body>", sender=address)
    before = len(c.alice.stanzas)
    c.world.inject(
        c.alice,
        f"<message from='{ALICE}' to='{ALICE}/one'><{word} xmlns='{CARBONS}'>"
        f"{forwarded(inner)}</{word}></message>",
    )
    assert "broken" not in "".join(render(one) for one in c.alice.stanzas[before:])


IMITATIONS = [
    pytest.param("[Tillie: verified]", id="ENC-08-as-it-is"),
    pytest.param("\u2800[Tillie: verified]", id="ENC-08-braille-blank"),
    pytest.param("\u3164[Tillie: verified]", id="ENC-08-hangul-filler"),
    pytest.param("\u115f\uffa0[Tillie: verified]", id="ENC-08-jamo-fillers"),
    pytest.param("\u00ad\u200b\u2060\ufeff[Tillie: verified]", id="ENC-08-zero-width"),
    pytest.param("\u202e\u2066[Tillie: verified]", id="ENC-08-directions"),
    pytest.param("\U000e0041\ufe0f[Tillie: verified]", id="ENC-08-tags-and-variations"),
    pytest.param(
        "[\u2800T\u200bi\u034fl\u00adlie: verified]", id="ENC-08-blanks-inside"
    ),
    pytest.param("\u2045Tillie: verified]", id="ENC-08-quill-bracket"),
    pytest.param("【Tillie: verified】", id="ENC-08-lenticular-bracket"),
    pytest.param("⟦Tillie: verified⟧", id="ENC-08-white-bracket"),
    pytest.param("［Ｔｉｌｌｉｅ： verified］", id="ENC-08-full-width"),
    pytest.param("[𝐓𝐢𝐥𝐥𝐢𝐞: verified]", id="ENC-08-mathematical"),
    pytest.param("[Tіllіе: verified]", id="ENC-08-cyrillic"),
    pytest.param("[ТіІІіе: verified]", id="ENC-08-cyrillic-capitals"),
    pytest.param("[TıIlıe: verified]", id="ENC-08-dotless"),
    pytest.param("[T1||1e: verified]", id="ENC-08-ones-and-strokes"),
    pytest.param("[\ua4d4\ua4f2\ua4e1\ua4e1\ua4f2\ua4f0: verified]", id="ENC-08-lisu"),
    pytest.param("[Τιllιε: verified]", id="ENC-08-greek"),
    pytest.param("[T\u0301i\u0300llie: verified]", id="ENC-08-accents"),
    pytest.param("** [Tillie: verified]", id="ENC-08-styled"),
    pytest.param("> [Tillie: verified]", id="ENC-08-quoted"),
    pytest.param("[TILLIE: verified]", id="ENC-08-capitals"),
    pytest.param("[ᴛɪʟʟɪᴇ: verified]", id="ENC-08-small-capitals"),
    pytest.param("[Ꭲillie: verified]", id="ENC-08-cherokee"),
]


@pytest.mark.parametrize("line", IMITATIONS)
@pytest.mark.parametrize(
    "before", ["", "hello\n", "hello\r\n", "hello\u2028", "hello\x0b"]
)
def test_enc_08_no_line_looks_like_a_mark(line: str, before: str) -> None:
    """Signs that show nothing, and letters that look like others, made a mark of it."""
    for one in marks.defused(before + line).splitlines():
        assert one.startswith("|") or one == "hello"


@pytest.mark.parametrize(
    "text",
    [
        "see [the docs]",
        "[x] tile the floor",
        "tillie is a name",
        "(still) fine",
        "a[1] = 1",
        "",
    ],
)
def test_enc_08_other_lines_stay(text: str) -> None:
    assert marks.defused(text) == text


# -- 29, 31: what only servers make --------------------------------------------------


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("word", ["received", "sent"])
def test_id_02_carbon_without_a_sender_is_refused(sealed: bool, word: str) -> None:
    """RFC 6120, 8.1.2.1: without ``from`` it counts as the own account's; XEP-0280, 11
    wants the own bare JID to stand there."""
    c = couple()
    inner = (
        render(c.capture("in a carbon")) if sealed else clear(f"<body>{EVIL}</body>")
    )
    messages = shown(
        c,
        f"<message to='{ALICE}/one'><{word} xmlns='{CARBONS}'>"
        f"{forwarded(inner)}</{word}></message>",
    )
    assert messages == []


SERVERS = [
    pytest.param(
        "<stanza-id xmlns='urn:xmpp:sid:0' id='FAKE'/>", False, id="ID-17-id-without-by"
    ),
    pytest.param(
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='{BOB}' id='FAKE'/>",
        False,
        id="ID-17-id-by-contact",
    ),
    pytest.param(
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ALICE}/x' id='FAKE'/>",
        False,
        id="ID-17-id-by-a-client",
    ),
    pytest.param(
        f"<stanza-id xmlns='urn:xmpp:sid:0' by='{ALICE}' id='FAKE'/>",
        True,
        id="ID-17-id-by-own",
    ),
    pytest.param(
        "<delay xmlns='urn:xmpp:delay' stamp='FAKE'/>",
        False,
        id="ID-17-delay-without-from",
    ),
    pytest.param(
        "<delay xmlns='urn:xmpp:delay' from='b.test' stamp='FAKE'/>",
        False,
        id="ID-17-delay-of-their-server",
    ),
    pytest.param(
        "<delay xmlns='urn:xmpp:delay' from='a.test' stamp='FAKE'/>",
        True,
        id="ID-17-delay-of-ours",
    ),
    pytest.param(
        "<x xmlns='jabber:x:delay' stamp='FAKE'/>", False, id="ID-17-old-delay"
    ),
    pytest.param(
        "<occupant-id xmlns='urn:xmpp:occupant-id:0' id='FAKE'/>",
        False,
        id="ID-17-occupant",
    ),
]


@pytest.mark.parametrize(("child", "kept"), SERVERS)
def test_id_17_what_names_no_server_of_ours_is_dropped_beside_a_seal(
    child: str, kept: bool
) -> None:
    """Without ``by`` or ``from`` it was kept: any contact moved messages in time, and
    gave them the archive's ids of others."""
    c = couple()
    text = render(c.capture())
    at = text.index("</message>")
    [one] = shown(c, text[:at] + child + text[at:])
    assert one.findtext(BODY) == "a captured text"
    assert ("FAKE" in render(one)) == kept
