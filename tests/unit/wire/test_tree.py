"""Trees out of bytes and back, judged by lxml as a second opinion."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement

import lxml.etree
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from proxy.errors import LocalFault, PeerFault
from proxy.wire.framing import PAYLOAD, Limits
from proxy.wire.stanza import Stanza
from proxy.wire.tree import parse, serialise, split_name

from ...support.strategies import elements, stanzas
from .streams import HEADER, run
from .test_framing import FRAGMENTS

STRICT = lxml.etree.XMLParser(
    resolve_entities=False, no_network=True, load_dtd=False, encoding="utf-8"
)


def canonical(data: bytes, default: str = "jabber:client") -> bytes:
    """Read *data* with lxml and write it in the one canonical way."""
    root = lxml.etree.Element(f"{{{default}}}r", nsmap={None: default})
    head = lxml.etree.tostring(root)[:-2]
    document = lxml.etree.fromstring(head + b">" + data + b"</r>", STRICT)
    return lxml.etree.tostring(document, method="c14n", exclusive=True)


def same(one: Element, other: Element) -> bool:
    return (
        one.tag == other.tag
        and one.attrib == other.attrib
        and (one.text or "") == (other.text or "")
        and len(one) == len(other)
        and all(
            same(a, b) and (a.tail or "") == (b.tail or "")
            for a, b in zip(one, other, strict=True)
        )
    )


@settings(max_examples=200, deadline=None)
@given(elements(), st.sampled_from(("jabber:client", "urn:x", "")))
def test_what_is_written_reads_the_same(element: Element, default: str) -> None:
    data = serialise(element, inherited=default)
    again = parse(data, default=default)
    assert same(again, element)
    assert serialise(again, inherited=default) == data


@settings(max_examples=150, deadline=None)
@given(stanzas())
def test_lxml_reads_what_is_written(element: Element) -> None:
    data = serialise(element)
    document = b"<r xmlns='jabber:client'>" + data + b"</r>"
    try:
        root = lxml.etree.fromstring(document, STRICT)
    except lxml.etree.XMLSyntaxError as error:
        # The one thing that libxml2 is stricter in: XML lets any text be a
        # namespace name.
        if "is not a valid URI" not in str(error):
            raise
        reject()

    def agree(one: Element, other: lxml.etree._Element) -> bool:
        return (
            one.tag == other.tag
            and one.attrib == dict(other.attrib)
            and (one.text or "") == (other.text or "")
            and len(one) == len(other)
            and all(
                agree(a, b) and (a.tail or "") == (b.tail or "")
                for a, b in zip(one, other, strict=True)
            )
        )

    assert agree(element, root[0])


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=5)), max_size=12)
)
def test_xml_48_what_is_accepted_lxml_accepts(fragments: list[bytes]) -> None:
    data = b"<m>" + b"".join(fragments) + b"</m>"
    try:
        element = parse(data)
    except PeerFault:
        return
    again = serialise(element)
    # Prefixes that were declared and not used say nothing.
    assert canonical(again) == canonical(data)


@settings(max_examples=100, deadline=None)
@given(stanzas())
def test_framer_and_tree_agree(element: Element) -> None:
    data = serialise(element)
    _, stanza = run([HEADER, data])
    again = Stanza.of(parse(data))
    assert (stanza.name, stanza.ns) == (again.name, again.ns)
    assert stanza.attrs == again.attrs
    assert stanza.children == again.children
    assert stanza.data == again.to_bytes()


REFUSED = {
    "XML-04": (b"<body>a&nbsp;b</body>", "not-well-formed"),
    "XML-05": (b"<!DOCTYPE s [<!ENTITY x 'y'>]><a>&x;</a>", "not-well-formed"),
    "XML-21": (b"<?xml version='1.0'?><a/>", "restricted-xml"),
    "XML-21-inside": (b"<a><?php ?></a>", "restricted-xml"),
    "XML-22": (b"<a>b<!-- c --></a>", "restricted-xml"),
    "XML-13": (b"<a>\xc0\xbc</a>", "not-well-formed"),
    "XML-24": (b"<a>]]></a>", "not-well-formed"),
    "XML-25": (b"<foo:bar/>", "bad-namespace-prefix"),
    "XML-25-stream": (b"<stream:error/>", "bad-namespace-prefix"),
    "XML-27": (b"<a xmlns:a='u' xmlns:b='u' a:x='1' b:x='2'/>", "not-well-formed"),
    "XML-36": (
        b"</content></envelope></message><message from='boss@x'>",
        "not-well-formed",
    ),
    "XML-36-own-root": (b"</_><_ xmlns='jabber:client'><a/>", "not-well-formed"),
    "XML-36-behind": (b"<a/></_>", "not-well-formed"),
    "XML-36-two": (b"<a/><message from='boss@x'/>", "bad-format"),
    "XML-37": (b"<a>" * 65 + b"</a>" * 65, "policy-violation"),
    "XML-38": (b"<a>" + b"x" * 262_144 + b"</a>", "policy-violation"),
    "XML-38-name": (b"<a><" + b"x" * 513 + b"/></a>", "policy-violation"),
    "XML-38-namespace": (b"<a xmlns='" + b"x" * 513 + b"'/>", "policy-violation"),
    "XML-39-attributes": (
        b"<a" + b"".join(b" a%d=''" % n for n in range(65)) + b"/>",
        "policy-violation",
    ),
    "XML-39-declarations": (
        b"<a>" + b"<a xmlns='u'/>" * 65 + b"</a>",
        "policy-violation",
    ),
    "XML-39-children": (b"<a>" + b"<a/>" * 1025 + b"</a>", "policy-violation"),
    "XML-40": (
        b"<a><b>" + b"".join(b"<a%d/>" % n for n in range(4096)) + b"</b></a>",
        "policy-violation",
    ),
    "nothing": (b"", "bad-format"),
    "white": (b" \n", "bad-format"),
    "text": (b"hello", "bad-format"),
    "text-before": (b"x<a/>", "bad-format"),
    "text-behind": (b"<a/>x", "bad-format"),
    "mark": ("\ufeff<a/>".encode(), "bad-format"),
    "open": (b"<a>", "not-well-formed"),
    "open-tag": (b"<a b='", "not-well-formed"),
    "open-cdata": (b"<a><![CDATA[", "not-well-formed"),
    "open-cdata-behind": (b"<a/><![CDATA[", "not-well-formed"),
    "open-comment": (b"<a/><!--", "not-well-formed"),
}


@pytest.mark.parametrize(("data", "condition"), REFUSED.values(), ids=REFUSED)
def test_payload_is_refused(data: bytes, condition: str) -> None:
    with pytest.raises(PeerFault) as caught:
        parse(data)
    assert caught.value.condition == condition


def test_limits_are_exact() -> None:
    parse(b"<a>" * 64 + b"</a>" * 64)
    parse(b"<a>" + b"<a/>" * 1024 + b"</a>")
    parse(b"<a>" + b"<a xmlns='u'/>" * 64 + b"</a>")
    parse(b"<a>" + b"x" * (PAYLOAD.stanza - 7) + b"</a>")
    names = b"".join(b"<a%d/>" % n for n in range(4094))
    parse(b"<a><b>" + names + b"</b></a>")
    small = Limits(stanza=5, hard=5, depth=1)
    parse(b"<a />", limits=small)
    with pytest.raises(PeerFault):
        parse(b"<a  />", limits=small)


def test_long_namespace_is_not_copied_into_many_names() -> None:
    data = b"<a xmlns='" + b"u" * 100_000 + b"'>"
    data += b"".join(b"<b%d/>" % n for n in range(10_000)) + b"</a>"
    with pytest.raises(PeerFault):
        parse(data)


def test_default_namespace_is_the_callers() -> None:
    assert parse(b" <a/>\n", default="urn:o'k").tag == "{urn:o'k}a"
    assert parse(b"<a xmlns=''/>").tag == "a"


def test_xml_23_cdata_is_written_as_text() -> None:
    body = parse(b"<body><![CDATA[<b/>]]></body>")
    assert body.text == "<b/>"
    assert serialise(body) == b"<body>&lt;b/&gt;</body>"
    assert parse(b"<b><![CDATA[]]]]><![CDATA[>]]></b>").text == "]]>"
    assert serialise(parse(b"<b>]]&gt;</b>")) == b"<b>]]&gt;</b>"


def test_xml_43_white_space_survives() -> None:
    element = parse(b"<m to='a&#10;b' x='a\tb&#9;&#13;'>&#13;&#10;\r\n\t</m>")
    assert element.attrib == {"to": "a\nb", "x": "a b\t\r"}
    assert element.text == "\r\n\n\t"
    assert serialise(element) == (b"<m to='a&#10;b' x='a b&#9;&#13;'>&#13;\n\n\t</m>")


def test_xml_44_nothing_is_declared_twice() -> None:
    message = Element("{jabber:client}message", {"to": "a'b<&>"})
    child = SubElement(message, "{urn:x}x", {"{urn:y}a": "1", "{urn:z}b": "2"})
    child.tail = "t>"
    SubElement(child, "{urn:x}y", {"{http://www.w3.org/XML/1998/namespace}lang": "e"})
    SubElement(child, "{jabber:client}body")
    SubElement(child, "none")
    message.tail = "left out"
    assert serialise(message) == (
        b"<message to='a&apos;b&lt;&amp;>'>"
        b"<x xmlns='urn:x' xmlns:ns1='urn:y' ns1:a='1' xmlns:ns2='urn:z' ns2:b='2'>"
        b"<y xml:lang='e'/><body xmlns='jabber:client'/><none xmlns=''/></x>t&gt;"
        b"</message>"
    )


@pytest.mark.parametrize("bad", ["\0", "\x0b", "\ud800", "\ufffe", "\uffff", "\x1f"])
def test_what_xml_cannot_hold_is_not_written(bad: str) -> None:
    element = Element("{jabber:client}a")
    element.text = f"x{bad}"
    with pytest.raises(LocalFault):
        serialise(element)
    with pytest.raises(LocalFault):
        serialise(Element("{jabber:client}a", {"b": bad}))


def test_xml_37_deep_tree_is_no_recursion_error() -> None:
    root = element = Element("a")
    for _ in range(5000):
        element = SubElement(element, "a")
    with pytest.raises(LocalFault):
        serialise(root)


def test_names_are_split_at_the_last_brace() -> None:
    assert split_name("{a}b}c") == ("a}b", "c")
    assert split_name("c") == ("", "c")
