"""A contact that gives no sign for 14 days (I25; protocol.md, 6.9)."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

from tests.support.simulator import ALICE, BOB, DAY, Couple, couple

WORD = "it may never have been read"
RECEIVED = "<received xmlns='urn:xmpp:receipts' id='m'/>"


def told(c: Couple) -> list[str]:
    rows = cast("list[dict[str, str]]", c.a.command("notices", account=ALICE))
    return [row["text"] for row in rows if WORD in row["text"]]


def pass_days(c: Couple, days: int) -> None:
    """Alice's client is there once a day, and Bob's in the end."""
    for _ in range(days):
        c.alice.close()
        c.world.now += DAY
        c.alice = c.world.login(c.a, ALICE)
        c.world.wait(1_000)
    c.bob.close()
    c.bob = c.world.login(c.b, BOB)


def test_i25_sender_is_told_once_after_fourteen_days() -> None:
    c = couple()
    c.alice.say(BOB, "unanswered")
    pass_days(c, 13)
    assert told(c) == []
    pass_days(c, 2)
    [text] = told(c)
    assert BOB in text
    assert "2025-06-15" in text
    for _ in range(5):
        c.alice.say(BOB, "unanswered as well")
        pass_days(c, 10)
    assert len(told(c)) == 1
    c.a.restart()
    pass_days(c, 20)
    assert len(told(c)) == 1


def test_i25_the_time_counts_from_the_first_unanswered_message() -> None:
    c = couple()
    c.alice.say(BOB, "the first one")
    pass_days(c, 8)
    c.alice.say(BOB, "another one")
    pass_days(c, 7)
    assert len(told(c)) == 1


def test_i25_any_sealed_sign_will_do() -> None:
    """An answer, a receipt, typing: each is sealed, so a device read something."""
    for sign in (
        f"<message to='{ALICE}' type='chat'><body>an answer</body></message>",
        f"<message to='{ALICE}' type='chat'>{RECEIVED}</message>",
        f"<message to='{ALICE}' type='chat'>"
        "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>",
    ):
        c = couple()
        c.alice.say(BOB, "a question")
        c.bob.send(sign)
        pass_days(c, 20)
        assert told(c) == [], sign


def test_i25_after_a_sign_the_next_silence_is_told_again() -> None:
    c = couple()
    c.alice.say(BOB, "one")
    pass_days(c, 15)
    c.bob.say(ALICE, "I was away")
    pass_days(c, 15)
    assert len(told(c)) == 1
    c.alice.say(BOB, "two")
    pass_days(c, 15)
    assert len(told(c)) == 2


def test_i25_a_repetition_by_the_server_is_no_sign() -> None:
    c = couple()
    old = c.capture("an old message")
    c.world.inject(c.alice, old)
    c.alice.say(BOB, "unanswered")
    c.world.inject(c.alice, deepcopy(old))
    c.world.inject(
        c.alice,
        f"<message from='{BOB}/one' to='{ALICE}' type='chat'><body>clear</body>"
        "</message>",
    )
    pass_days(c, 15)
    assert len(told(c)) == 1


def test_i25_who_only_reads_is_not_told() -> None:
    c = couple()
    c.bob.say(ALICE, "news")
    pass_days(c, 20)
    assert told(c) == []


def test_i25_a_forgotten_contact_is_not_told_of() -> None:
    c = couple()
    c.alice.say(BOB, "unanswered")
    c.a.command("forget", jid=BOB)
    pass_days(c, 15)
    assert told(c) == []


def test_i25_nothing_is_left_of_a_rolled_back_message() -> None:
    c = couple()
    c.a.refuse_commits = True
    c.alice.say(BOB, "the disk is full")
    c.a.refuse_commits = False
    c.alice = c.world.login(c.a, ALICE)
    pass_days(c, 20)
    assert told(c) == []
    c.alice.say(BOB, "unanswered")
    pass_days(c, 15)
    assert len(told(c)) == 1
