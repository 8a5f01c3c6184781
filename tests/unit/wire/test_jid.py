"""Addresses: one prepared form for each, or none."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import PeerFault
from proxy.wire.jid import Jid

VALID = {
    "a.test": ("", "a.test", ""),
    "localhost": ("", "localhost", ""),
    "a@localhost/r": ("a", "localhost", "r"),
    "a@b/c@d/e": ("a", "b", "c@d/e"),
    "a@b/ c ": ("a", "b", " c "),
    "muc_x.a.test": ("", "muc_x.a.test", ""),
    r"a\40b@c.test": (r"a\40b", "c.test", ""),
    "!#$%*+-=?^_`{|}~@b": ("!#$%*+-=?^_`{|}~", "b", ""),
    "ID-11-case ALICE@Example.ORG/Re": ("alice", "example.org", "Re"),
    "ID-11-dot a@example.org.": ("a", "example.org", ""),
    "ID-11-width a@ｅxample.org": ("a", "example.org", ""),
    "ID-11-ideographic-dot a@b。test": ("a", "b.test", ""),
    "ID-11-a-label a@xn--bcher-kva.test": ("a", "bücher.test", ""),
    "ID-11-u-label a@BÜCHER.test": ("a", "bücher.test", ""),
    "ID-11-combining e\u0301@b/e\u0301": ("é", "b", "é"),
    "ID-11-wide-local \uff21@b": ("a", "b", ""),
    "ID-12-sharp-s \u1e9e@b": ("ß", "b", ""),
    "ID-12-dotted-i \u0130@b": ("i\u0307", "b", ""),
    "resource-space a@b/x\u00a0y": ("a", "b", "x y"),
    "sharp-s a@faß.test": ("a", "faß.test", ""),
}


@pytest.mark.parametrize(("text", "parts"), VALID.items(), ids=VALID)
def test_valid(text: str, parts: tuple[str, str, str]) -> None:
    text = text.partition(" ")[2] if text.startswith(("ID-", "res", "sharp")) else text
    jid = Jid.parse(text)
    assert (jid.local, jid.domain, jid.resource) == parts
    assert Jid.parse(str(jid)) == jid
    assert Jid(*parts) == jid


MALFORMED = {
    "ID-13-nothing": "",
    "ID-13-no-local": "@b",
    "ID-13-no-domain": "a@",
    "ID-13-no-resource": "a@b/",
    "ID-13-no-domain-resource": "a@/r",
    "ID-13-two-at": "a@b@c",
    "ID-13-quote": "a'b@c",
    "ID-13-double-quote": 'a"b@c',
    "ID-13-less": "a<b@c",
    "ID-13-amp": "a&b@c",
    "ID-13-colon": "a:b@c",
    "ID-13-space": "a b@c",
    "ID-13-domain-space": "a@b c",
    "ID-13-domain-quote": "a@b'c",
    "ID-13-control": "a@b/c\nd",
    "ID-13-del": "a@b/\x7f",
    "ID-13-nul": "a\0@b",
    "ID-13-long-local": "a" * 1024 + "@b",
    "ID-13-long-resource": "a@b/" + "a" * 1024,
    "ID-13-long-resource-bytes": "a@b/" + "é" * 512,
    "ID-13-long-domain": "a@" + ".".join(["a" * 60] * 17),
    "ID-13-long-label": "a@" + "a" * 64,
    "ID-13-wide-at": "a\uff20b@c",
    "ID-13-wide-at-in-domain": "a@b\uff20c",
    "ID-13-wide-slash": "a@b\uff0fc",
    "ID-13-wide-quote": "a\uff02@c",
    "ID-11-zero-width": "a\u200bb@c",
    "ID-11-override": "a\u202eb@c",
    "ID-11-soft-hyphen": "a\u00adb@c",
    "ID-11-bad-a-label": "a@xn--zz.test",
    "ID-11-a-label-of-ascii": "a@xn--a-.test",
    "ID-11-a-label-of-symbol": "a@xn--n3h.test",
    "ID-11-joiner": "a@a\u200db.test",
    "ID-12-roman": "\u2163@b",
    "ID-12-unassigned": "\u0378@b",
    "ID-12-unassigned-resource": "a@b/\u0378",
    "ID-12-surrogate": "\ud800@b",
    "ID-12-surrogate-resource": "a@b/\ud800",
    "ID-12-surrogate-domain": "a@\ud800",
    "port": "a@b:5222",
    "ipv4": "a@127.0.0.1",
    "ipv6": "a@[::1]",
    "empty-label": "a@b..c",
    "only-dot": "a@.",
    "two-dots": "a@b..",
    "hyphen": "a@-b",
    "hyphen-end": "a@b-.test",
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed(text: str) -> None:
    with pytest.raises(PeerFault) as caught:
        Jid.parse(text)
    assert caught.value.condition == "jid-malformed"


def test_id_11_confusable_is_another_address() -> None:
    assert Jid.parse("\u0430lice@x") != Jid.parse("alice@x")


def test_a_part_of_1023_bytes_is_valid() -> None:
    assert len(Jid.parse("a" * 1023 + "@b/" + "c" * 1023).local) == 1023


@pytest.mark.parametrize(
    "parts",
    [("A", "b", ""), ("a", "B", ""), ("a", "b.", ""), ("", "", ""), ("a", "", "")],
)
def test_an_unprepared_address_cannot_be_made(parts: tuple[str, str, str]) -> None:
    with pytest.raises(PeerFault):
        Jid(*parts)


def test_bare() -> None:
    full = Jid.parse("a@b/c")
    assert full.bare == Jid("a", "b")
    assert full.bare.bare is not full
    assert str(full.bare) == "a@b"
    assert str(Jid.parse("b/c")) == "b/c"


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301" * 30_000 + "@b",
        "a@b/" + "\ufdfa" * 20_000,
        "a@" + "\u0301" * 30_000,
        "a@" + "\ufdfa" * 20_000,
        "\ufdfa" * 340 + "@b",
        "a@" + "\ufdfa" * 340,
        "a@" + "\u0344" * 500,
    ],
)
def test_res_09_length_is_asked_before_preparing(text: str) -> None:
    start = time.process_time()
    with pytest.raises(PeerFault):
        Jid.parse(text)
    assert time.process_time() - start < 0.5


def test_res_09_length_is_asked_after_preparing() -> None:
    # U+0958 is two characters in its normal form.
    with pytest.raises(PeerFault):
        Jid.parse("a@b/" + "\u0958" * 341)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_prepared_once_is_prepared(local: str, domain: str, resource: str) -> None:
    try:
        jid = Jid.parse(f"{local}@{domain}/{resource}")
    except PeerFault:
        return
    assert Jid.parse(str(jid)) == jid
    assert Jid(jid.local, jid.domain, jid.resource) == jid


def test_plain_addresses_load_no_tables() -> None:
    code = (
        "import sys; from proxy.wire.jid import Jid; Jid.parse('A@b.test/c');"
        "sys.exit('idna' in sys.modules or 'precis_i18n' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 0
