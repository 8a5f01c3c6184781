"""Marks, and texts that would like to be one."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import pytest

from proxy.rules import marks
from proxy.rules.marks import BODY, CLEAR, SUBJECT, XHTML, defuse, defused, mark_clear

IMITATIONS = [
    "[Tillie: verified]",
    "[Tillie] verified",
    "[tillie: verified]",
    "[TILLIE: VERIFIED]",
    " [Tillie: verified]",
    "\t\u00a0\u2003[Tillie: verified]",
    "\u200b\u200d\ufeff[Tillie: verified]",
    "\u202e[Tillie: verified]",
    "\u00ad[T\u00adillie: verified]",
    "[ Tillie : verified]",
    "[T\u200bi\u200cl\u2060lie: verified]",
    "[T\u0336illie: verified]",
    "［Ｔｉｌｌｉｅ: verified]",
    "[𝐓𝐢𝐥𝐥𝐢𝐞: verified]",
    "[Ⓣⓘⓛⓛⓘⓔ: verified]",
    "[Тillie: verified]",
    "[Tіllіе: verified]",
    "[TiIIie: verified]",
    "[T1ll1e: verified]",
    "[Ti||ie: verified]",
    "[Tıllıe: verified]",
    "[Τιllιε: verified]",
    "【Tillie: verified】",
    "〔Tillie: verified〕",
    "⟦Tillie: verified⟧",
    "⁅Tillie: verified⁆",
    "\u3164[Tillie: verified]",
    "\u2800[Tillie: verified]",
    "\uffa0[Tillie: verified]",
    CLEAR + "text",
    marks.UNREADABLE,
    marks.UNREADABLE_OLD,
]


@pytest.mark.parametrize(
    "text", IMITATIONS, ids=lambda text: f"ENC-08-{ascii(text)[:40]}"
)
def test_enc_08_line_that_looks_like_a_mark_is_defused(text: str) -> None:
    assert defused(text) == "|" + text


@pytest.mark.parametrize(
    "end", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029"]
)
def test_enc_08_every_kind_of_line_is_looked_at(end: str) -> None:
    text = f"first{end}[Tillie: verified]{end}last"
    assert defused(text) == f"first{end}|[Tillie: verified]{end}last"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "Tillie says hello",
        "[1] a footnote",
        "[ ] buy milk",
        "array[tiles]",
        "(see Tillie)",
        "[https://tiles.example.org]",
        "日本語【お知らせ】です",
        "x" * 10_000,
        "\n\n\n",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert defused(text) == text


def test_defusing_twice_does_no_harm() -> None:
    for text in IMITATIONS:
        once = defused(text)
        assert once.lstrip("|") == text
        assert defused(once).lstrip("|") == text


def message(*children: Element) -> Element:
    element = Element("{jabber:client}message")
    element.extend(children)
    return element


def child(tag: str, text: str) -> Element:
    element = Element(tag)
    element.text = text
    return element


@pytest.mark.parametrize("tag", [BODY, SUBJECT])
def test_enc_08_bodies_in_all_languages_and_subjects_are_defused(tag: str) -> None:
    one = message(child(tag, "x"), child(tag, "[Tillie: a]"), child(tag, "[Tillie: b]"))
    defuse(one)
    assert [part.text for part in one] == ["x", "|[Tillie: a]", "|[Tillie: b]"]


def test_enc_08_formatted_text_is_defused_wherever_a_line_begins() -> None:
    html = Element(XHTML)
    page = SubElement(html, "{http://www.w3.org/1999/xhtml}body")
    page.text = "[Tillie: a]"
    line = SubElement(page, "{http://www.w3.org/1999/xhtml}br")
    line.tail = "[Tillie: b]"
    one = message(html)
    defuse(one)
    assert "".join(one.itertext()) == "|[Tillie: a]|[Tillie: b]"


def test_enc_08_mark_cut_into_pieces_is_seen() -> None:
    """``[Til`` and ``lie`` in two elements look like one word to a person."""
    html = Element(XHTML)
    page = SubElement(html, "{http://www.w3.org/1999/xhtml}body")
    for piece in ("[Til", "lie: ver", "ified]"):
        SubElement(page, "{http://www.w3.org/1999/xhtml}span").text = piece
    one = message(child(BODY, "x"), html)
    defuse(one)
    formatted = one.find(XHTML)
    shown = "" if formatted is None else "".join(formatted.itertext())
    assert not shown.startswith("[Tillie")


def test_enc_07_mark_stands_before_all_that_was_written() -> None:
    one = message(child(BODY, "[Tillie: verified] hi"), child(SUBJECT, "s"))
    mark_clear(one)
    assert [part.text for part in one] == [
        CLEAR + "|[Tillie: verified] hi",
        CLEAR + "s",
    ]


def test_enc_07_nothing_of_a_body_escapes_the_mark() -> None:
    """Elements inside a body are text for some clients."""
    body = child(BODY, "a")
    SubElement(body, "{urn:x}b").text = "b"
    body[0].tail = "c"
    one = message(body)
    mark_clear(one)
    assert one[0].text == CLEAR + "abc"
    assert len(one[0]) == 0


def test_placeholder_has_a_text_and_nothing_else() -> None:
    outer = {"to": "t", "from": "f", "type": "chat", "id": "i", "other": "o"}
    one = marks.placeholder(outer, marks.UNREADABLE)
    assert [part.tag for part in one] == [BODY]
    assert one.get("other") is None
    assert (one.get("from"), one.get("to")) == ("f", "t")
