from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import TrustFault
from proxy.keys.documents import make_doc
from proxy.keys.identity import RootPrivate
from proxy.keys.manifest import Manifest, first_manifest, retired
from proxy.keys.servers import ROLLOVER, rollover_claims
from proxy.keys.trust import (
    Advanced,
    Held,
    Kept,
    Pin,
    Pinned,
    Rolled,
    Unchanged,
    accept,
    judge,
    judge_absence,
)

from .forge import DEVICE, OTHER_DEVICE, OTHER_ROOT, ROOT

JID = "juliet@capulet.example"
NOW: Final = 1_700_000_000_000
MINE = first_manifest(JID, ROOT, DEVICE, "laptop", NOW)
FOREIGN = first_manifest(JID, OTHER_ROOT, OTHER_DEVICE, "laptop", NOW)


def numbered(seq: int, twin: int = 0, of: Manifest = MINE) -> Manifest:
    """Stand in for the verified manifest *seq*; *twin* tells two such apart."""
    digest = bytes([seq, twin]) * 16
    return dataclasses.replace(of, seq=seq, digest=digest, document=f"{seq}-{twin}")


def pinned(seq: int = 5) -> Pin:
    return judge(None, numbered(seq), NOW).pin


def test_first_use() -> None:
    decision = judge(None, MINE, NOW + 1)
    assert decision == Pinned(
        Pin(
            jid=JID,
            root=ROOT.public.fingerprint,
            seq=1,
            digest=MINE.digest,
            document=MINE.document,
            level="seen",
            since=NOW + 1,
            checked=NOW + 1,
            alarm="",
        )
    )


def test_unchanged() -> None:
    decision = judge(pinned(), numbered(5), NOW + 9)
    assert decision == Unchanged(dataclasses.replace(pinned(), checked=NOW + 9))


@pytest.mark.parametrize("seq", [6, 200])
def test_enc_22_a_new_manifest_of_the_pinned_root_is_used_at_once(seq: int) -> None:
    pin = dataclasses.replace(pinned(), level="verified")
    decision = judge(pin, numbered(seq), NOW + 9)
    assert isinstance(decision, Advanced)
    moved = decision.pin
    assert (moved.seq, moved.document) == (seq, f"{seq}-0")
    assert moved.digest == numbered(seq).digest
    assert (moved.level, moved.since, moved.checked) == ("verified", NOW, NOW + 9)


@pytest.mark.parametrize("seq", [1, 5, 200])
def test_enc_22_another_root_holds_the_conversation(seq: int) -> None:
    decision = judge(pinned(), numbered(seq, of=FOREIGN), NOW + 9)
    assert isinstance(decision, Held)
    assert decision.pin == dataclasses.replace(pinned(), alarm="root-changed")
    assert decision.pin.held
    assert decision.fresh
    assert JID in decision.reason
    again = judge(decision.pin, numbered(seq, of=FOREIGN), NOW + 10)
    assert isinstance(again, Held)
    assert not again.fresh


@pytest.mark.parametrize("seq", [5, 6])
def test_the_pinned_root_ends_the_hold(seq: int) -> None:
    held = judge(pinned(), numbered(9, of=FOREIGN), NOW).pin
    decision = judge(held, numbered(seq), NOW + 9)
    assert isinstance(decision, Unchanged | Advanced)
    assert not decision.pin.held
    assert decision.pin.seq == seq


@pytest.mark.parametrize("seq", [1, 4])
def test_dir_04_rollback(seq: int) -> None:
    decision = judge(pinned(), numbered(seq), NOW + 9)
    assert isinstance(decision, Kept)
    assert decision.pin == dataclasses.replace(pinned(), alarm="rollback")
    assert decision.fresh
    assert not decision.pin.held
    again = judge(decision.pin, numbered(seq), NOW + 10)
    assert isinstance(again, Kept)
    assert not again.fresh


def test_i24_equal_number_other_digest() -> None:
    fork = judge(pinned(), numbered(5, twin=1), NOW + 9)
    assert isinstance(fork, Kept)
    assert fork.pin == dataclasses.replace(pinned(), alarm="fork")
    assert fork.fresh
    # Serving the first one again does not unsay the second.
    unchanged = judge(fork.pin, numbered(5), NOW + 10)
    assert isinstance(unchanged, Unchanged)
    assert unchanged.pin.alarm == "fork"
    after = judge(unchanged.pin, numbered(6, twin=1), NOW + 11)
    assert isinstance(after, Advanced)
    assert after.pin.alarm == ""


def test_a_lesser_alarm_does_not_hide_a_hold() -> None:
    held = judge(pinned(), numbered(9, of=FOREIGN), NOW).pin
    for decision in (
        judge(held, numbered(1), NOW),
        judge(held, numbered(5, twin=1), NOW),
        judge_absence(held),
    ):
        assert isinstance(decision, Kept)
        assert decision.pin.held
        assert not decision.fresh


@pytest.mark.parametrize(
    ("decide", "words", "clause"),
    [
        pytest.param(
            lambda pin: judge(pin, numbered(1), NOW), "an older list", "I24", id="older"
        ),
        pytest.param(
            lambda pin: judge(pin, numbered(5, twin=1), NOW),
            "have the same number",
            "I24",
            id="twin",
        ),
        pytest.param(
            lambda pin: judge(pin, numbered(9, of=FOREIGN), NOW),
            "were replaced; nothing is sent",
            "I24",
            id="root",
        ),
        pytest.param(judge_absence, "says it has no keys", "I25", id="withheld"),
    ],
)
def test_a_refusal_says_whom_and_what_it_concerns(
    decide: Callable[[Pin], Kept | Held], words: str, clause: str
) -> None:
    """It is a notice for a person, the first time and whenever it is asked for."""
    first = decide(pinned())
    again = decide(first.pin)
    assert (first.fresh, again.fresh) == (True, False)
    for one in (first, again):
        assert JID in one.reason
        assert words in one.reason
        assert one.clause == clause
    assert again.pin == first.pin


def test_a_hold_outweighs_a_lesser_alarm() -> None:
    kept = judge(pinned(), numbered(1), NOW).pin
    decision = judge(kept, FOREIGN, NOW)
    assert isinstance(decision, Held)
    assert decision.fresh
    assert decision.pin.held


def test_enc_23_no_key_where_one_is_pinned() -> None:
    decision = judge_absence(pinned())
    assert decision is not None
    assert decision.pin == dataclasses.replace(pinned(), alarm="withheld")
    assert decision.fresh
    again = judge_absence(decision.pin)
    assert again is not None
    assert not again.fresh
    assert judge_absence(None) is None


def test_i25_only_the_root_says_that_it_retires() -> None:
    gone = retired(MINE, ROOT, NOW)
    decision = judge(judge(None, MINE, NOW).pin, gone, NOW + 9)
    assert isinstance(decision, Advanced)
    assert decision.pin.document == gone.document


def test_dir_01_a_manifest_of_another_account() -> None:
    other = dataclasses.replace(numbered(9), jid="romeo@montague.example")
    with pytest.raises(TrustFault, match="another account"):
        judge(pinned(), other, NOW)


def test_a_person_accepts_another_root_without_its_trust() -> None:
    held = judge(dataclasses.replace(pinned(), level="verified"), FOREIGN, NOW).pin
    pin = accept(FOREIGN, NOW + 9)
    assert held.held
    assert not pin.held
    assert pin.root == OTHER_ROOT.public.fingerprint
    assert (pin.level, pin.since) == ("seen", NOW + 9)


ANNOUNCED = st.tuples(st.booleans(), st.integers(1, 6), st.integers(0, 1))


@given(st.lists(ANNOUNCED | st.none(), max_size=12))
def test_no_sequence_of_announcements_moves_trust_backwards(
    sequence: list[tuple[bool, int, int] | None],
) -> None:
    pin = pinned(2)
    for step, announced in enumerate(sequence):
        if announced is None:
            kept = judge_absence(pin)
            assert kept is not None
            after = kept.pin
        else:
            own, seq, twin = announced
            of = MINE if own else FOREIGN
            after = judge(pin, numbered(seq, twin, of), NOW + step).pin
        assert (after.jid, after.root, after.level) == (pin.jid, pin.root, pin.level)
        assert after.seq >= pin.seq
        assert after.since == pin.since
        if after.seq == pin.seq:
            assert (after.digest, after.document) == (pin.digest, pin.document)
        pin = after


# -- another root, by the pinned one's word (3.10) --------------------------------


def chain(*roots: RootPrivate) -> list[bytes]:
    """Each root's word for the next one."""
    return [
        make_doc(
            rollover_claims(JID, old.public.fingerprint, new.public, NOW), ROLLOVER, old
        ).encode()
        for old, new in pairwise(roots)
    ]


def following(root: RootPrivate, seq: int) -> Manifest:
    made = first_manifest(JID, root, DEVICE, "laptop", NOW)
    return dataclasses.replace(made, seq=seq)


def held_pin() -> Pin:
    """Of a real manifest: whose word counts is read in it."""
    return judge(None, MINE, NOW).pin


def test_a_rollover_moves_the_pin_and_takes_no_trust_along() -> None:
    pin = dataclasses.replace(held_pin(), level="verified", alarm="root-changed")
    decision = judge(pin, following(OTHER_ROOT, 2), NOW + 9, chain(ROOT, OTHER_ROOT))
    assert isinstance(decision, Rolled)
    moved = decision.pin
    assert moved.root == OTHER_ROOT.public.fingerprint
    assert moved.left == (ROOT.public.fingerprint,)
    assert (moved.level, moved.since, moved.alarm) == ("seen", NOW + 9, "")
    assert "old ones vouch" in decision.reason


def test_a_chain_of_two_leads_and_what_it_left_is_remembered() -> None:
    middle = RootPrivate.generate()
    rollovers = chain(ROOT, middle, OTHER_ROOT)
    decision = judge(held_pin(), following(OTHER_ROOT, 3), NOW, rollovers)
    assert isinstance(decision, Rolled)
    # the one between was never pinned, and lanes may have it in their audience
    behind = (ROOT.public.fingerprint, middle.public.fingerprint)
    assert decision.pin.left == behind


@pytest.mark.parametrize(
    ("seq", "rollovers"),
    [
        (2, []),
        (2, chain(OTHER_ROOT, ROOT)),
        (2, chain(RootPrivate.generate(), OTHER_ROOT)),
        (2, chain(ROOT, RootPrivate.generate())),
        (1, chain(ROOT, OTHER_ROOT)),
        (2, [b"{}"]),
        # beyond two, nothing is looked at
        (2, [b"{}", b"{}", *chain(ROOT, OTHER_ROOT)]),
    ],
)
def test_dir_04_what_leads_nowhere_is_another_root(
    seq: int, rollovers: list[bytes]
) -> None:
    decision = judge(held_pin(), following(OTHER_ROOT, seq), NOW, rollovers)
    assert isinstance(decision, Held)
    assert decision.pin.root == ROOT.public.fingerprint


def test_i24_a_root_that_was_left_is_a_rollback() -> None:
    rolled = judge(held_pin(), following(OTHER_ROOT, 2), NOW, chain(ROOT, OTHER_ROOT))
    again = judge(rolled.pin, following(ROOT, 9), NOW, chain(OTHER_ROOT, ROOT))
    assert isinstance(again, Kept)
    assert again.pin.alarm == "rollback"
    assert not again.pin.held


def test_what_was_left_is_remembered_by_later_manifests() -> None:
    rolled = judge(held_pin(), following(OTHER_ROOT, 2), NOW, chain(ROOT, OTHER_ROOT))
    later = judge(rolled.pin, following(OTHER_ROOT, 3), NOW)
    assert isinstance(later, Advanced)
    assert later.pin.left == rolled.pin.left
