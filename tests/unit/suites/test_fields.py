"""The one encoding of what is signed, and the one spelling of base64."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import PeerFault
from proxy.suites.fields import b64, fields, split, unb64

PARTS = st.lists(st.one_of(st.none(), st.binary(max_size=40)), max_size=6)


@given(PARTS)
def test_split_undoes_fields(parts: list[bytes | None]) -> None:
    assert split(fields("label", *parts)) == [b"tillie/0 label", *parts]


@given(PARTS, PARTS)
def test_no_two_lists_have_one_encoding(
    one: list[bytes | None], two: list[bytes | None]
) -> None:
    assert (fields("x", *one) == fields("x", *two)) == (one == two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("a", b"bc"), ("ab", b"c")),
        (("a", b""), ("a",)),
        (("a", None), ("a", b"")),
        (("a", b"\xff\xff\xff\xff"), ("a", None)),
        (("a", 1), ("a", 256)),
        (("a", b"", b"x"), ("a", b"x", b"")),
    ],
)
def test_neighbours_do_not_run_together(
    one: tuple[str, ...], two: tuple[str, ...]
) -> None:
    assert fields(*one) != fields(*two)


def test_encoding_is_as_the_specification_has_it() -> None:
    assert fields("t", "é", 5, None, b"") == (
        b"\0\0\0\x0atillie/0 t"
        b"\0\0\0\x02\xc3\xa9"
        b"\0\0\0\x08\0\0\0\0\0\0\0\x05"
        b"\xff\xff\xff\xff"
        b"\0\0\0\0"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\0\0\0",
        b"\0\0\0\x05abcd",
        b"\x7f\xff\xff\xffabcd",
        b"\xff\xff\xff\xfe",
        fields("a", b"b")[:-1],
        fields("a", b"b") + b"\0",
    ],
)
def test_wrong_lengths_are_refused(data: bytes) -> None:
    with pytest.raises(PeerFault):
        split(data)


def test_integers_beyond_eight_bytes_are_refused() -> None:
    with pytest.raises(OverflowError):
        fields("a", 2**64)
    with pytest.raises(OverflowError):
        fields("a", -1)


@given(st.binary(max_size=200))
def test_base64_goes_there_and_back(data: bytes) -> None:
    assert unb64(b64(data)) == data


@given(st.text(alphabet="ABab01+/-_= \n\tÄ", max_size=12))
def test_enc_11_base64_has_one_spelling(text: str) -> None:
    try:
        data = unb64(text)
    except PeerFault:
        return
    assert base64.b64encode(data).decode() == text


@pytest.mark.parametrize(
    "text",
    [
        "QQ",
        "QQ=",
        "QR==",
        "QQ===",
        "Q Q==",
        "QQ==\n",
        "-_==",
        "QQ==QQ==",
        "=",
        "====",
        "Q",
        "ＱＱ==",
        "QQ\0=",
    ],
    ids=lambda text: f"ENC-11-{text!a}",
)
def test_enc_11_other_spellings_are_refused(text: str) -> None:
    with pytest.raises(PeerFault):
        unb64(text)
