"""Bytes that a stream must not let pass, and odd ones that it must (docs/threats.md).

Each name begins with the id of its case.  They are read by the framer, sent to the
program from both sides, and put inside a seal.
"""

from __future__ import annotations

HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client'"
    b" xmlns:stream='http://etherx.jabber.org/streams' to='a.test' version='1.0'>"
)
GOOD = b"<message to='b@b.test' id='1'><body>hi</body></message>"
LOL = b"".join(
    b"<!ENTITY l%d '%s'>" % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10)
)

RESTRICTED = "restricted-xml"
MALFORMED = "not-well-formed"
PREFIX = "bad-namespace-prefix"
ENCODING = "unsupported-encoding"
POLICY = "policy-violation"
FORMAT = "bad-format"

# Bytes at the very start of a connection.
FIRST = {
    "XML-01-utf7": (
        b"<?xml version='1.0' encoding='UTF-7'?>"
        + HEADER[21:]
        + b"<message><body>+ADw-/body+AD4APA-iq/+AD4-",
        ENCODING,
    ),
    "XML-01-shift-jis": (
        b"<?xml version='1.0' encoding='SHIFT_JIS'?>" + HEADER[21:],
        ENCODING,
    ),
    "XML-01-latin1": (
        b"<?xml version='1.0' encoding='iso-8859-1'?>" + HEADER[21:],
        ENCODING,
    ),
    "XML-05-declared": (
        b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x 'LOL'>]>"
        + HEADER[21:]
        + b"<message><body>&x;</body></message>",
        RESTRICTED,
    ),
    "XML-05-undeclared": (b"<!DOCTYPE s [<!ENTITY x 'LOL'>]>", RESTRICTED),
    "XML-05-before-its-end": (b"<?xml version='1.0'?> <!D", RESTRICTED),
    "XML-06": (
        b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x '<iq type=\"set\"/>'>]>"
        + HEADER[21:]
        + b"<message>&x;</message>",
        RESTRICTED,
    ),
    "XML-07": (
        b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY l0 'lol'>"
        + LOL
        + b"]>"
        + HEADER[21:]
        + b"<message><body>&l9;</body></message>",
        RESTRICTED,
    ),
    "XML-08": (
        b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY l0 'lol'>"
        + LOL
        + b"]>"
        + HEADER[21:]
        + b"<message to='&l9;'/>",
        RESTRICTED,
    ),
    "XML-09": (
        b"<?xml version='1.0'?><!DOCTYPE s [<!ENTITY x '"
        + b"y" * 5000
        + b"'>]>"
        + HEADER[21:]
        + b"<message>"
        + b"&x;" * 1000
        + b"</message>",
        RESTRICTED,
    ),
    "XML-10-file": (
        b"<!DOCTYPE s [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>" + HEADER[21:],
        RESTRICTED,
    ),
    "XML-10-http": (
        b"<?xml version='1.0'?><!DOCTYPE s SYSTEM 'http://127.0.0.1:1/'>",
        RESTRICTED,
    ),
    "XML-11": (
        b"<?xml version='1.0'?>"
        b"<!DOCTYPE s [<!ATTLIST message from CDATA 'admin@x'>]>" + HEADER[21:] + GOOD,
        RESTRICTED,
    ),
    "XML-12": (b"<!DOCTYPE" + b"x" * 20_000, RESTRICTED),
    "XML-18-twice": (b"\xef\xbb\xbf\xef\xbb\xbf" + HEADER, FORMAT),
    "XML-19-le": (HEADER.decode().encode("utf-16"), ENCODING),
    "XML-19-be": (b"\xfe\xff" + HEADER.decode().encode("utf-16-be"), ENCODING),
    "XML-19-le-bare": (HEADER.decode().encode("utf-16-le"), ENCODING),
    "XML-19-be-bare": (HEADER.decode().encode("utf-16-be"), ENCODING),
    "XML-19-utf32": (HEADER.decode().encode("utf-32-be"), ENCODING),
    "XML-20-1.1": (b"<?xml version='1.1'?>" + HEADER[21:], MALFORMED),
    "XML-20-9.9": (b"<?xml version='9.9'?>" + HEADER[21:], MALFORMED),
    "XML-21-stylesheet": (b"<?xml-stylesheet href='x'?>" + HEADER, RESTRICTED),
    "XML-21-php": (b"<?php?>" + HEADER, RESTRICTED),
    "XML-21-twice": (b"<?xml version='1.0'?>" + HEADER, RESTRICTED),
    "XML-22-first": (b"<!-- --" + HEADER, RESTRICTED),
    "declaration-behind-space": (b" " + HEADER, MALFORMED),
    "LOC-02-post": (b"POST / HTTP/1.1\r\n\r\n" + HEADER, FORMAT),
    "LOC-03-get": (b"GET /<stream:stream HTTP/1.1\r\n", FORMAT),
    "LOC-03-http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", FORMAT),
    "LOC-03-tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", FORMAT),
    "html": (b"<html><body/></html>", "invalid-namespace"),
    "tag-of-no-name": (b"<1>", FORMAT),
    "other-content": (
        HEADER.replace(b"jabber:client", b"jabber:server"),
        "invalid-namespace",
    ),
    "no-content": (
        b"<stream:stream xmlns:stream='http://etherx.jabber.org/streams'>",
        "invalid-namespace",
    ),
    "other-root": (HEADER.replace(b"<stream:stream", b"<stream:features"), FORMAT),
    "header-that-ends": (HEADER[:-1] + b"/>", FORMAT),
    "header-that-ends-and-text": (HEADER[:-1] + b"/>'", FORMAT),
    "long-header": (HEADER[:-1] + b" a='" + b"x" * 10_000 + b"'>", POLICY),
    "header-of-attributes": (
        HEADER[:-1] + b"".join(b" a%d=''" % n for n in range(65)) + b">",
        POLICY,
    ),
    "header-of-declarations": (
        HEADER[:-1] + b"".join(b" xmlns:a%d='u'" % n for n in range(63)) + b">",
        POLICY,
    ),
    "header-with-a-long-name": (HEADER[:-1] + b" " + b"a" * 513 + b"=''>", POLICY),
}

# Bytes behind a good header: nothing of them is a stanza.
BEHIND = {
    "XML-02": (b"<message><body>a&foo;b</body></message>" + HEADER[21:], MALFORMED),
    "XML-03": (b"<message to='a&foo;b'/><message/>", MALFORMED),
    "XML-05": (b"<!DOCTYPE s [<!ENTITY x 'LOL'>]><message/>", RESTRICTED),
    "XML-05-in-stanza": (b"<message><!DOCTYPE", RESTRICTED),
    "XML-13-text": (b"<message><body>\xc0\xbc</body></message>", MALFORMED),
    "XML-13-attribute": (b"<message to='\xe0\x80\xbc'/>", MALFORMED),
    "XML-13-name": (b"<mess\xf0\x80\x80\xbcage/>", MALFORMED),
    "XML-14": (b"<message><b>\xeb</b>\xeb</message>", MALFORMED),
    "XML-15-surrogates": (b"<m>\xed\xa0\xbd\xed\xb2\xa9</m>", MALFORMED),
    "XML-15-beyond": (b"<m>\xf4\x90\x80\x80</m>", MALFORMED),
    "XML-15-five": (b"<m>\xf8\x88\x80\x80\x80</m>", MALFORMED),
    "XML-15-lone": (b"<m>\x80</m>", MALFORMED),
    "XML-17-fffe": (b"<m>\xef\xbf\xbe</m>", MALFORMED),
    "XML-17-ffff": (b"<m a='\xef\xbf\xbf'/>", MALFORMED),
    "XML-21-declaration": (b"<?xml version='1.0'?><message/>", RESTRICTED),
    "XML-21-declaration-in-stanza": (b"<m><?xml version='1.0'?></m>", RESTRICTED),
    "XML-21-stylesheet": (b"<?xml-stylesheet?>", RESTRICTED),
    "XML-21-php": (b"<m>]<?php", RESTRICTED),
    "XML-22-comment": (b"<message><!-- --><body>a<!--x-->b</body>", RESTRICTED),
    "XML-22-between": (b"<!-- -->", RESTRICTED),
    "XML-22-malformed": (b"<m><!-- -- -- ></m>", RESTRICTED),
    "XML-22-in-tag": (b"<m <!-- -->/>", MALFORMED),
    "XML-24": (b"<m>a]]>b</m>", MALFORMED),
    "XML-25": (b"<foo:bar/>", PREFIX),
    "XML-25-attribute": (b"<message foo:bar=''/>", PREFIX),
    "XML-26": (b"<a:b:c xmlns:a='q'/>", MALFORMED),
    "XML-27": (b"<message xmlns:a='u' xmlns:b='u' a:x='1' b:x='2'/>", MALFORMED),
    "XML-28-xml": (b"<m xmlns:xml='evil'/>", PREFIX),
    "XML-28-xmlns": (b"<m xmlns:xmlns='q'/>", PREFIX),
    "XML-28-empty": (b"<m xmlns:p=''/>", PREFIX),
    "XML-33-2070": ("<a\u2070/>".encode(), MALFORMED),
    "XML-33-10000": ("<\U00010000/>".encode(), MALFORMED),
    "XML-34-header": (HEADER[21:] + GOOD, FORMAT),
    "XML-35-early-end": (b"<message><body></stream:stream>", MALFORMED),
    "XML-37-33": (b"<a>" * 33, POLICY),
    "XML-37-255": (b"<a>" * 255, POLICY),
    "XML-37-20000": (b"<a>" * 20_000, POLICY),
    "XML-38-text": (b"<m>" + b"x" * 10_000, POLICY),
    "XML-38-attribute": (b"<m a='" + b"x" * 10_000, POLICY),
    "XML-38-name": (b"<" + b"x" * 60_000, POLICY),
    "XML-38-short-name": (b"<" + b"x" * 513 + b"/>", POLICY),
    "XML-38-reference": (b"<m>&#" + b"0" * 12_000, POLICY),
    "XML-38-end-tag": (b"<m></m" + b" " * 12_000, POLICY),
    "XML-38-end-of-stream": (b"</stream:stream" + b" " * 12_000, POLICY),
    "XML-39-attributes": (
        b"<m" + b"".join(b" a%d=''" % n for n in range(65)) + b"/>",
        POLICY,
    ),
    "XML-39-declarations": (
        b"<m" + b"".join(b" xmlns:a%d='u'" % n for n in range(65)) + b"/>",
        POLICY,
    ),
    "XML-39-children": (b"<m>" + b"<b/>" * 1025 + b"</m>", POLICY),
    "long-namespace": (b"<m xmlns='" + b"u" * 512 + b"'/>", POLICY),
    "text": (b"hello", FORMAT),
    "text-and-bad-tag": (b"hello<foo:bar/>", FORMAT),
    "text-and-entity": (b" \n&foo;", FORMAT),
    "cdata-between": (b"<![CDATA[ ]]>", FORMAT),
    "reference-between": (b"&#32;", FORMAT),
    "text-before-end": (b"hello</stream:stream>", FORMAT),
}
for _n, _bad in enumerate((b"\0", b"\x01", b"\x08", b"\x0b", b"\x1f")):
    BEHIND[f"XML-16-raw-{_n}"] = (b"<m>" + _bad + b"</m>", MALFORMED)
for _bad in (b"0", b"1", b"xD800", b"xFFFE", b"x110000", b"4294967356"):
    BEHIND[f"XML-16-{_bad.decode()}"] = (b"<m>&#" + _bad + b";</m>", MALFORMED)

# What is let through, and how.
PASSED = {
    "XML-18-inside": "<m>\ufeff</m>".encode(),
    "XML-23": b"<m><body><![CDATA[<b/>]]></body></m>",
    "XML-23-split": b"<m><![CDATA[]]]]><![CDATA[>]]></m>",
    "XML-22-in-cdata": b"<m><![CDATA[<!-- <?php ?> <!DOCTYPE ]]><a/></m>",
    "XML-22-many-cdata": b"<m><![CDATA[]]>]<![CDATA[<!]]]]><![CDATA[<?]]></m>",
    "XML-43": b"<m to='a&#10;b\tc' a='\r\n'>&#13;&#10;\r\n</m>",
    "XML-45": b"<m xml:lang='" + b"x" * 900 + b"'/>",
    "XML-46": (
        b"<m xml:base='file:///etc/' xml:id='a'><i xml:id='a'/>"
        b"<x:include xmlns:x='http://www.w3.org/2001/XInclude' href='passwd'/></m>"
    ),
    "reference-to-slash": b"<m>/></m>",
    "empty-with-gt": b"<m a='/>' b=\"'>\"/>",
    "not-empty-with-gt": b"<m a='/'>/></m>",
    "long-end-tag": b"<m></m" + b" " * 3000 + b">",
    "long-attribute": b"<m a='" + b">" * 3000 + b"' b=\"" + b"'<>"[:1] * 2000 + b'"/>',
    "long-reference": b"<m>&#" + b"0" * 3000 + b"65;</m>",
    "astral": "<m>\U0001f600é</m>".encode(),
}
