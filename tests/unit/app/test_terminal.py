from __future__ import annotations

import pytest

from proxy.app.terminal import escaped, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b[2Jbob", r"\x1b[2Jbob", id="LOC-10 escape"),
        pytest.param("a\nb\r\x85", r"a\nb\r\x85", id="LOC-17 line ends"),
        pytest.param("\u202egpj.exe", r"\u202egpj.exe", id="LOC-17 bidi override"),
        pytest.param("\u2066a\u2069", r"\u2066a\u2069", id="LOC-17 bidi isolate"),
        pytest.param("\u2028\u2029", r"\u2028\u2029", id="LOC-17 separators"),
        pytest.param("\x9b31m", r"\x9b31m", id="LOC-10 eight-bit CSI"),
        pytest.param("bob\u200b\u00a0", r"bob\u200b\xa0", id="invisible"),
        pytest.param("\udc80", r"\udc80", id="lone surrogate"),
        pytest.param("\U000e0041", r"\U000e0041", id="tag"),
        pytest.param("Zoë 王 bob@例え.jp", "Zoë 王 bob@例え.jp", id="letters stay"),
    ],
)
def test_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_a_pipe_gets_whole_aligned_lines() -> None:
    long = "x" * 300
    text = table(("jid", "level"), [("bob@example.org", "seen"), (long, "none")], None)
    lines = text.split("\n")
    assert lines[0].split() == ["jid", "level"]
    assert lines[2] == f"{long}  none"
    assert lines[0].index("level") == lines[1].index("seen") == 302


def test_a_terminal_is_folded_and_nothing_is_markup() -> None:
    text = table(("jid",), [("[bold]" + "y" * 60,), ("\x1b]0;pwned\x07",)], 40)
    assert all(len(line) <= 40 for line in text.split("\n"))
    assert "[bold]" in text
    assert text.count("y") == 60
    assert "\x1b" not in text
    assert r"\x1b]0;pwned\x07" in text
