"""Random stanzas and streams for property tests."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from hypothesis import strategies as st

XML_NS = "http://www.w3.org/XML/1998/namespace"

# What XML 1.0 can hold, with what is awkward in it more often than by chance.
_AWKWARD = "<>&'\"]\r\n\t \ufeff\u0085\u2028\U0001f600é"


def texts(max_size: int = 40) -> st.SearchStrategy[str]:
    """Character data of XML 1.0."""
    characters = st.one_of(
        st.sampled_from(_AWKWARD),
        st.characters(
            blacklist_categories=("Cs", "Cc"),
            blacklist_characters="\ufffe\uffff",
        ),
    )
    pieces = st.sampled_from(("]]>", "<!--", "&amp;", "/>", "</message>", "<?xml"))
    return st.one_of(st.text(characters, max_size=max_size), pieces)


def names() -> st.SearchStrategy[str]:
    """Local names that every edition of XML allows."""
    first = "abcdefghijklmnopqrstuvwxyzABCXYZ_é"
    return st.builds(
        str.__add__,
        st.sampled_from(first),
        st.text(first + "0123456789-.", max_size=6),
    )


def namespaces() -> st.SearchStrategy[str]:
    """Namespace names, the common ones and odd ones."""
    return st.one_of(
        st.sampled_from(
            ("jabber:client", "", "urn:xmpp:receipts", "u'<&>\"", "a b", "x}y{z")
        ),
        st.text("abc:/#{} ", min_size=1, max_size=12),
    )


def clark_names(local: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """``{namespace}name``, or only the name where the namespace is empty."""
    return st.builds(
        lambda ns, name: f"{{{ns}}}{name}" if ns else name, namespaces(), local
    )


def attributes() -> st.SearchStrategy[dict[str, str]]:
    """Attributes with and without namespaces."""
    keys = st.one_of(
        names().filter(lambda name: name != "xmlns"),
        st.just(f"{{{XML_NS}}}lang"),
        st.builds(lambda name: f"{{urn:a}}{name}", names()),
    )
    return st.dictionaries(keys, texts(12), max_size=4)


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> Element:
    """An element with random content, at most *depth* levels of it."""
    element = Element(draw(clark_names(names())), draw(attributes()))
    _fill(draw, element, depth)
    return element


@st.composite
def stanzas(draw: st.DrawFn, depth: int = 3) -> Element:
    """A message, presence or iq in ``jabber:client`` with random content."""
    kind = draw(st.sampled_from(("message", "presence", "iq")))
    attrs = draw(attributes())
    for key, values in (
        ("to", ("juliet@capulet.test", "juliet@capulet.test/balcony")),
        ("id", ("1", "x'y")),
        ("type", ("chat", "get", "set", "headline")),
    ):
        if draw(st.booleans()):
            attrs[key] = draw(st.sampled_from(values))
    element = Element(f"{{jabber:client}}{kind}", attrs)
    if kind == "message" and draw(st.booleans()):
        body = Element("{jabber:client}body")
        body.text = draw(texts())
        element.append(body)
    _fill(draw, element, depth)
    return element


def _fill(draw: st.DrawFn, element: Element, depth: int) -> None:
    if len(element) == 0:
        element.text = draw(st.one_of(st.none(), texts()))
    if not depth:
        return
    for child in draw(st.lists(elements(depth=depth - 1), max_size=3)):
        element.append(child)
        child.tail = draw(st.one_of(st.none(), texts(8)))


def cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Ways to cut *data* into pieces."""
    at = st.lists(st.integers(0, len(data)), max_size=8).map(sorted)
    return at.map(
        lambda ends: [
            data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)
        ]
    )
