"""Random stanzas and streams for property tests."""

from __future__ import annotations

from functools import cache
from xml.etree.ElementTree import Element

from hypothesis import strategies as st

XML_NS = "http://www.w3.org/XML/1998/namespace"

# Strategies are made once: making them costs far more than drawing from them.


@cache
def texts(max_size: int = 40) -> st.SearchStrategy[str]:
    """Character data of XML 1.0, with what is awkward in it more often."""
    awkward = (
        *("<>&'\"", "]]>", "<!--", "&amp;", "/>", "</message>", "<?xml", "</_>"),
        *("\r\n", "\t", " ", "\ufeff", "\u0085", "\u2028", "\U0001f600", "é", "\x7f"),
    )
    characters = st.characters(
        exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"
    )
    return st.one_of(
        st.text(characters, max_size=max_size),
        st.lists(st.sampled_from(awkward), max_size=4).map("".join),
    )


@cache
def names() -> st.SearchStrategy[str]:
    """Local names that every edition of XML allows."""
    usual = ("body", "x", "query", "item", "message", "stream", "é", "_", "a-b.c")
    return st.one_of(
        st.sampled_from(usual),
        st.from_regex(r"[a-zA-Z_][a-z0-9.\-]{0,6}", fullmatch=True),
    ).filter(lambda name: not name.lower().startswith("xml"))


@cache
def namespaces() -> st.SearchStrategy[str]:
    """Namespace names, the common ones and odd ones."""
    return st.sampled_from(
        (
            *("jabber:client", "jabber:client", "urn:xmpp:receipts", ""),
            *("u'<&>\"", "a b", "x}y{z", "http://etherx.jabber.org/streams", "é"),
        )
    )


@cache
def clark_names() -> st.SearchStrategy[str]:
    """``{namespace}name``, or only the name where the namespace is empty."""
    return st.builds(
        lambda ns, name: f"{{{ns}}}{name}" if ns else name, namespaces(), names()
    )


@cache
def attributes() -> st.SearchStrategy[dict[str, str]]:
    """Attributes with and without namespaces."""
    keys = st.one_of(
        names(),
        st.just(f"{{{XML_NS}}}lang"),
        names().map(lambda name: f"{{urn:a}}{name}"),
        names().map(lambda name: f"{{urn:}}b}}{name}"),
    )
    return st.dictionaries(keys, texts(12), max_size=3)


@cache
def elements(depth: int = 3) -> st.SearchStrategy[Element]:
    """An element with random content, at most *depth* levels of it."""
    return st.builds(_element, clark_names(), attributes(), _content(depth))


@cache
def stanzas(depth: int = 3) -> st.SearchStrategy[Element]:
    """A message, presence or iq in ``jabber:client`` with random content."""
    return st.builds(
        _stanza,
        st.sampled_from(("message", "message", "presence", "iq")),
        attributes(),
        st.fixed_dictionaries(
            {},
            optional={
                "to": st.sampled_from(("juliet@c.test", "juliet@c.test/balcony")),
                "from": st.just("romeo@m.test/orchard"),
                "id": st.sampled_from(("1", "x'y")),
                "type": st.sampled_from(("chat", "get", "set", "headline")),
            },
        ),
        st.none() | texts(),
        _content(depth),
    )


Content = tuple[str | None, list[tuple[Element, str | None]]]


@cache
def _content(depth: int) -> st.SearchStrategy[Content]:
    tail = st.none() | texts(8)
    children: st.SearchStrategy[list[tuple[Element, str | None]]] = st.just([])
    if depth:
        inner = st.tuples(elements(depth - 1), tail)
        children = st.lists(inner, max_size=4 - depth if depth > 1 else 2)
    return st.tuples(st.none() | texts(), children)


def _element(tag: str, attrs: dict[str, str], content: Content) -> Element:
    element = Element(tag, attrs)
    element.text, children = content
    for child, tail in children:
        child.tail = tail
        element.append(child)
    return element


def _stanza(
    kind: str,
    foreign: dict[str, str],
    attrs: dict[str, str],
    body: str | None,
    content: Content,
) -> Element:
    stanza = _element(f"{{jabber:client}}{kind}", {**foreign, **attrs}, content)
    if kind == "message" and body is not None:
        child = Element("{jabber:client}body")
        child.text = body
        stanza.insert(0, child)
    return stanza


def cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Ways to cut *data* into pieces."""
    at = st.lists(st.integers(0, len(data)), max_size=8).map(sorted)
    return at.map(
        lambda ends: [
            data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)
        ]
    )
