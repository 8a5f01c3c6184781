"""Suite 1 by itself: seals, grants, lane ids."""

from __future__ import annotations

import hmac
import time
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from proxy.errors import Fault, PeerFault, TrustFault
from proxy.keys.identity import DevicePrivate
from proxy.keys.prekeys import PrekeyPrivate, sign_prekey
from proxy.suites import lanes
from proxy.suites.fields import fields
from proxy.suites.lanes import Bound, Broken, Chain, Facts, Grant, Header, Parties

ROOT = bytes(range(32))
DEVICE = DevicePrivate(bytes([5]) * 32)
ACCOUNTS = [("alice@a.test", ROOT), ("bob@b.test", bytes(32))]
LANE = lanes.open_lane("alice@a.test", ROOT, DEVICE.public, ACCOUNTS, 7)
SECRET = Ed25519PrivateKey.from_private_bytes(LANE.secret)
BOUND = Bound("chat", "alice@a.test")


def seal(text: bytes = b"text", chain: Chain = LANE.chain, flags: int = 0) -> bytes:
    return lanes.seal(
        LANE.facts, chain, SECRET, text, BOUND, lane=LANE.facts.lane, flags=flags
    )


def unseal(
    payload: bytes,
    *,
    facts: Facts = LANE.facts,
    chain: Chain = LANE.chain,
    bound: Bound = BOUND,
) -> bytes:
    return lanes.unseal(facts, Header.unpack(payload), chain, payload, bound)


def test_what_is_sealed_opens() -> None:
    for text in (b"", b"x", bytes(50_000)):
        assert unseal(seal(text)) == text


def test_layout_is_as_the_specification_has_it() -> None:
    payload = seal(b"text", flags=lanes.WITH_GRANTS)
    assert payload[:3] == bytes((0, 1, 0x20))
    assert payload[3:19] == LANE.facts.lane
    assert payload[19:23] == bytes(4)
    assert payload[23:31] == sha256(DEVICE.public).digest()[:8]
    assert len(payload) == 47 + 64 + 32 + 4 + 16
    assert Header.unpack(payload).pack() == payload[:47]


def test_i07_same_text_under_the_same_index_shares_nothing() -> None:
    one, two = seal(), seal()
    assert one[19:23] == two[19:23]
    assert one[31:47] != two[31:47]
    assert one[111:143] != two[111:143]
    assert one[143:] != two[143:]


def test_enc_09_each_flipped_bit_is_refused() -> None:
    payload = seal()
    for at in range(8 * len(payload)):
        bent = bytearray(payload)
        bent[at // 8] ^= 1 << at % 8
        with pytest.raises(Broken):
            unseal(bytes(bent))


def test_enc_10_each_truncation_and_extension_is_refused() -> None:
    payload = seal()
    for size in range(len(payload)):
        with pytest.raises(Broken):
            unseal(payload[:size])
    for more in range(1, 65):
        with pytest.raises(Broken):
            unseal(payload + bytes(more))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(0, 1, id="ENC-14-version"),
        pytest.param(1, 0, id="ENC-14-suite-none"),
        pytest.param(1, 2, id="ENC-14-suite"),
        pytest.param(2, 0x40, id="ENC-14-flag-6"),
        pytest.param(2, 0x80, id="ENC-14-flag-7"),
        pytest.param(2, 0x01, id="ENC-14-presence"),
        pytest.param(2, 0x0F, id="ENC-14-kind"),
    ],
)
def test_enc_14_header_of_another_kind_is_refused(at: int, value: int) -> None:
    bent = bytearray(seal())
    bent[at] = value
    with pytest.raises(Broken):
        Header.unpack(bytes(bent))


@pytest.mark.parametrize(
    "bound",
    [
        pytest.param(Bound("normal", "alice@a.test"), id="I23-type"),
        pytest.param(Bound("chat", "bob@b.test"), id="ENC-13-sender"),
        pytest.param(Bound("", "alice@a.test"), id="I23-no-type"),
        pytest.param(Bound("chatalice@a.test", ""), id="I23-shifted"),
    ],
)
def test_enc_13_what_is_bound_has_to_agree(bound: Bound) -> None:
    with pytest.raises(Broken):
        unseal(seal(), bound=bound)


@pytest.mark.parametrize("name", ["scope", "public"])
def test_facts_of_another_lane_do_not_open(name: str) -> None:
    with pytest.raises(Broken):
        unseal(seal(), facts=replace(LANE.facts, **{name: bytes(32)}))


def test_chain_is_as_the_specification_has_it() -> None:
    chain = Chain(0, bytes(32))
    assert chain.message_key() == hmac.digest(bytes(32), b"\x01", "sha256")
    assert chain.next() == Chain(1, hmac.digest(bytes(32), b"\x02", "sha256"))
    assert chain.at(3) == chain.next().next().next()
    assert Chain.unpack(chain.at(3).pack()) == chain.at(3)


def test_enc_17_distance_is_bounded_and_cheap() -> None:
    """A valid signature on a far index costs no derivation (ENC-17: < 50 ms)."""
    base = LANE.chain
    assert unseal(seal(chain=base.at(lanes.SKIP_LIMIT))) == b"text"
    key = base.at(10).key
    for n in (lanes.SKIP_LIMIT + 1, 2**31, 2**32 - 1):
        payload = seal(chain=Chain(n, key))
        began = time.process_time()
        with pytest.raises(Broken):
            unseal(payload)
        assert time.process_time() - began < 0.05
    with pytest.raises(Broken):
        unseal(seal(), chain=base.at(1))


def test_wrong_chain_does_not_open() -> None:
    with pytest.raises(Broken):
        unseal(seal(), chain=Chain(0, bytes(32)))


def test_i28_gcm_alone_does_not_decide_which_key_it_was() -> None:
    """The commitment refuses a seal that another key would open too."""
    payload = seal()
    header = payload[:47]
    other = Chain(0, b"k" * 32)
    bent = lanes.seal(LANE.facts, other, SECRET, b"other", BOUND, lane=LANE.facts.lane)
    mixed = bent[:111] + payload[111:143] + bent[143:]
    aad = lanes._aad(bent[:47], 0, BOUND, LANE.facts.scope)
    signature = SECRET.sign(lanes._signed(aad, mixed[111:143], mixed[143:]))
    with pytest.raises(Broken):
        unseal(mixed[:47] + signature + mixed[111:], chain=other)
    assert header != bent[:47]


# Points and scalars that verify more than they should (RFC 8032, 5.1; ENC-15).
ORDER = 2**252 + 27742317777372353535851937790883648493
IDENTITY = b"\x01" + bytes(31)


def test_enc_15_second_spelling_of_a_signature_is_refused() -> None:
    payload = seal()
    scalar = int.from_bytes(payload[79:111], "little") + ORDER
    bent = payload[:79] + scalar.to_bytes(32, "little") + payload[111:]
    with pytest.raises(Broken):
        unseal(bent)


def test_enc_15_lane_key_of_small_order_is_refused() -> None:
    """Under the identity point one signature fits every text; it must open nothing."""
    facts = replace(LANE.facts, public=IDENTITY)
    forged = IDENTITY + bytes(32)
    payload = lanes.seal(facts, LANE.chain, SECRET, b"text", BOUND, lane=facts.lane)
    with pytest.raises(Fault):
        unseal(payload[:47] + forged + payload[111:], facts=facts)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_enc_15_lane_key_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(Broken):
        unseal(seal(), facts=replace(LANE.facts, public=bytes(size)))


# -- lane ids -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"device": bytes(32)},
        {"public": bytes(32)},
        {"commit": bytes(32)},
        {"scope": bytes(32)},
        {"audience": bytes(32)},
        {"epoch": 8},
    ],
    ids=lambda change: next(iter(change)),
)
def test_i21_lane_id_depends_on_all_that_makes_a_lane(
    change: dict[str, object],
) -> None:
    assert replace(LANE.facts, **change).lane != LANE.facts.lane  # type: ignore[arg-type]


def test_i21_lane_id_is_as_the_specification_has_it() -> None:
    facts = LANE.facts
    packed = fields(
        "lane", facts.device, facts.public, facts.commit, facts.scope, facts.audience, 7
    )
    assert facts.lane == sha256(packed).digest()[:16]
    assert facts.commit == hmac.digest(LANE.chain.key, b"commit", "sha256")


def test_i23_audience_is_who_reads_in_any_order() -> None:
    one = lanes.audience_hash(LANE.facts.commit, ACCOUNTS)
    assert (
        one
        == lanes.audience_hash(LANE.facts.commit, ACCOUNTS[::-1])
        == LANE.facts.audience
    )
    assert one != lanes.audience_hash(bytes(32), ACCOUNTS)
    assert one != lanes.audience_hash(LANE.facts.commit, ACCOUNTS[:1])
    assert one != lanes.audience_hash(
        LANE.facts.commit, [("alice@a.test", bytes(32)), ("bob@b.test", ROOT)]
    )


def test_facts_go_there_and_back() -> None:
    assert Facts.unpack(LANE.facts.pack()) == LANE.facts


def test_enc_10_facts_cut_or_bent_are_malformed() -> None:
    packed = LANE.facts.pack()
    for size in range(len(packed)):
        with pytest.raises(PeerFault):
            Facts.unpack(packed[:size])
    with pytest.raises(PeerFault):
        Facts.unpack(packed + fields("more"))
    with pytest.raises(PeerFault):
        Facts.unpack(replace(LANE.facts, commit=bytes(31)).pack())


# -- grants ---------------------------------------------------------------------------


PREKEY = PrekeyPrivate.generate(3)
PUBLIC = sign_prekey(PREKEY, DEVICE, "bob@b.test", bytes(32)).hpke()
PARTIES = Parties("alice@a.test", DEVICE.public, "bob@b.test", bytes(32), 3)


def test_grant_goes_there_and_back() -> None:
    grant = Grant(LANE.facts, LANE.chain, 9)
    signature = DEVICE.sign(lanes.grant_signature_input(grant, PARTIES))
    box = lanes.box(lanes.pack_grant(grant, signature), PUBLIC, PARTIES.info())
    plaintext = lanes.unbox(box, PREKEY.hpke(), PARTIES.info())
    assert lanes.unpack_grant(plaintext) == (grant, signature)


@pytest.mark.parametrize(
    "change",
    [
        {"granter": "eve@e.test"},
        {"granter_device": bytes(32)},
        {"reader": "eve@e.test"},
        {"reader_device": bytes([1]) * 32},
        {"prekey": 4},
    ],
    ids=lambda change: f"I21-{next(iter(change))}",
)
def test_i21_box_opens_for_its_parties_alone(change: dict[str, object]) -> None:
    box = lanes.box(b"plaintext", PUBLIC, PARTIES.info())
    other = replace(PARTIES, **change)  # type: ignore[arg-type]
    with pytest.raises(TrustFault):
        lanes.unbox(box, PREKEY.hpke(), other.info())
    grant = Grant(LANE.facts, LANE.chain, 9)
    assert lanes.grant_signature_input(grant, other) != lanes.grant_signature_input(
        grant, PARTIES
    )


def test_enc_33_box_cut_or_bent_does_not_open() -> None:
    box = lanes.box(b"plaintext", PUBLIC, PARTIES.info())
    for size in (0, 1, 31, 32, 1_119, 1_120, len(box) - 1):
        with pytest.raises(TrustFault):
            lanes.unbox(box[:size], PREKEY.hpke(), PARTIES.info())
    for at in range(0, 8 * len(box), 97):
        bent = bytearray(box)
        bent[at // 8] ^= 1 << at % 8
        with pytest.raises(TrustFault):
            lanes.unbox(bytes(bent), PREKEY.hpke(), PARTIES.info())


def test_i19_first_key_has_to_fit_its_commitment() -> None:
    for chain in (Chain(0, bytes(32)), LANE.chain.next()):
        grant = Grant(LANE.facts, replace(chain, n=0), 1)
        with pytest.raises(PeerFault):
            lanes.unpack_grant(lanes.pack_grant(grant, bytes(64)))


@pytest.mark.parametrize(
    "grant",
    [
        Grant(LANE.facts, Chain(lanes.LANE_LIMIT + 1, bytes(32)), 1),
        Grant(LANE.facts, Chain(5, bytes(31)), 1),
    ],
)
def test_enc_17_grant_out_of_reach_is_refused(grant: Grant) -> None:
    with pytest.raises(PeerFault):
        Grant.unpack(grant.pack())


def test_enc_14_grant_of_another_suite_is_refused() -> None:
    packed = Grant(LANE.facts, LANE.chain, 1).pack()
    one, two = (number.to_bytes(8, "big") for number in (1, 2))
    with pytest.raises(PeerFault):
        Grant.unpack(
            packed.replace(b"grant\0\0\0\x08" + one, b"grant\0\0\0\x08" + two, 1)
        )


def test_earliest_reads_more() -> None:
    one, two = LANE.chain, LANE.chain.next()
    assert lanes.earliest(one, two) == lanes.earliest(two, one) == one
