"""What of a security label stands outside a seal (XEP-0258, RFC 2634)."""

from __future__ import annotations

import base64

import pytest

from proxy.errors import PeerFault
from proxy.rules import labels, seals
from proxy.suites import lanes
from proxy.suites.fields import b64
from proxy.wire import tree

SPACE = "urn:xmpp:sec-label:0"
ESS = "urn:xmpp:sec-label:ess:0"
# the two examples of XEP-0258, 3: policy and classification, and one with a mark
PLAIN = "MQYCAQIGASk="
MARKED = "MRUCAgD9DA9BcXVhIChvYnNvbGV0ZSk="
WITHOUT_MARK = b64(bytes.fromhex("3104020200fd"))
SEAL = (
    "<encrypted xmlns='urn:x-tillie:seal:0'><payload>"
    f"{b64(bytes((0, 1, 0)) + bytes(lanes.SMALLEST))}</payload></encrypted>"
)


def ess(data: bytes | str) -> str:
    text = data if isinstance(data, str) else base64.b64encode(data).decode()
    return f"<esssecuritylabel xmlns='{ESS}'>{text}</esssecuritylabel>"


def hexed(digits: str, text: str = "") -> bytes:
    return bytes.fromhex(digits) + text.encode()


def label(inner: str) -> str:
    return f"<securitylabel xmlns='{SPACE}'>{inner}</securitylabel>"


def shown(text: str) -> str | None:
    """What stands outside of a label, or None."""
    copy = labels.outside(tree.parse(text.encode()))
    return None if copy is None else tree.serialise(copy).decode()


def same(text: str) -> str:
    return tree.serialise(tree.parse(text.encode())).decode()


def test_example_of_the_specification_keeps_what_servers_decide_by() -> None:
    full = label(
        "<displaymarking fgcolor='black' bgcolor='red'>SECRET</displaymarking>"
        f"<label>\n {ess(PLAIN)}\n</label>"
        f"<equivalentlabel>{ess(MARKED)}</equivalentlabel>"
    )
    assert shown(full) == same(
        label(
            f"<label>{ess(PLAIN)}</label>"
            f"<equivalentlabel>{ess(WITHOUT_MARK)}</equivalentlabel>"
        )
    )


def test_empty_label_means_the_default_and_stays() -> None:
    assert shown(label("<label/>")) == same(label("<label/>"))


def test_white_space_in_base64_is_left_out() -> None:
    text = label(f"<label>{ess(f' {PLAIN[:4]}  {PLAIN[4:]} ')}</label>")
    assert shown(text) == same(label(f"<label>{ess(PLAIN)}</label>"))


def test_categories_stay() -> None:
    """SET OF SEQUENCE of an implicit [0] OID and an explicit [1] SET of integers."""
    category = bytes.fromhex("300a 8002 2903 a104 3102 0500")
    data = bytes.fromhex("06022903") + b"\x31" + bytes((len(category),)) + category
    whole = b"\x31" + bytes((len(data),)) + data
    text = label(f"<label>{ess(whole)}</label>")
    assert shown(text) == same(text)


def test_long_lengths_are_read_and_written() -> None:
    number = b"\x02\x81\xc8" + bytes(200)
    inner = number + number
    whole = b"\x31\x82" + len(inner).to_bytes(2, "big") + inner
    text = label(f"<label>{ess(whole)}</label>")
    assert shown(text) == same(text)
    one = label(f"<label>{ess(bytes.fromhex('3181cb') + number)}</label>")
    assert shown(one) == same(one)


@pytest.mark.parametrize(
    "inner",
    [
        pytest.param("", id="ENC-02-nothing"),
        pytest.param(
            f"<equivalentlabel>{ess(PLAIN)}</equivalentlabel>", id="no-primary"
        ),
        pytest.param(f"<label>{ess(PLAIN)}</label>" * 2, id="two-primaries"),
        pytest.param(
            "<label/>" + f"<equivalentlabel>{ess(PLAIN)}</equivalentlabel>" * 16,
            id="too-many",
        ),
        pytest.param("<label/><equivalentlabel/>", id="empty-equivalent"),
        pytest.param(
            "<label><icismlabel xmlns='urn:ism' classification='text'/></label>",
            id="ENC-02-another-format",
        ),
        pytest.param(f"<label>{ess('c2VjcmV0IQ==')}</label>", id="ENC-02-no-der"),
        pytest.param(f"<label>{ess('not base64')}</label>", id="ENC-02-no-base64"),
        pytest.param(f"<label>{ess('<a/>')}</label>", id="ENC-02-child"),
        pytest.param(f"<label>{ess(PLAIN) * 2}</label>", id="two-in-one"),
        pytest.param(f"<label>{ess(b'')}</label>", id="empty-der"),
        pytest.param(f"<label>{ess(bytes.fromhex('310602'))}</label>", id="cut"),
        pytest.param(
            f"<label>{ess(bytes.fromhex('3103020105') + b'text')}</label>",
            id="ENC-02-text-behind",
        ),
        pytest.param(
            f"<label>{ess(bytes.fromhex('300602010206012a'))}</label>", id="no-set"
        ),
        pytest.param(
            f"<label>{ess(bytes.fromhex('3106') + hexed('0404', 'text'))}</label>",
            id="ENC-02-octets",
        ),
        pytest.param(
            f"<label>{ess(bytes.fromhex('3108') + hexed('30060c04', 'text'))}</label>",
            id="ENC-02-text-deeper",
        ),
        pytest.param(
            f"<label>{ess(bytes.fromhex('3106') + hexed('8104', 'text'))}</label>",
            id="ENC-02-implicit-text",
        ),
        pytest.param(
            f"<label>{ess(bytes.fromhex('310481020203'))}</label>", id="no-der-length"
        ),
        pytest.param(
            f"<label>{ess(bytes.fromhex('31810602010206012a'))}</label>",
            id="another-spelling-of-a-length",
        ),
        pytest.param(
            f"<label>{ess(hexed('31820200 028201fc') + bytes(508))}</label>",
            id="too-long",
        ),
        pytest.param(
            f"<label>{ess(bytes.fromhex('310e300c300a3008300630043002 3000'))}</label>",
            id="too-deep",
        ),
    ],
)
def test_enc_02_label_of_another_form_stays_inside(inner: str) -> None:
    assert shown(label(inner)) is None


@pytest.mark.parametrize(
    "beside",
    [
        label(f"<label a='text'>{ess(PLAIN)}</label>"),
        label(f"<label>{ess(PLAIN)}</label><displaymarking>text</displaymarking>"),
        label(f"<label>{ess(MARKED)}</label>"),
        label(f"<label>{ess(PLAIN)}text</label>"),
        label(f"text<label>{ess(PLAIN)}</label>"),
        label(f"<label>{ess(' ' + PLAIN)}</label>"),
        label("<label><x xmlns='urn:x'/></label>"),
        f"<securitylabel xmlns='{SPACE}' a='text'><label/></securitylabel>",
    ],
)
def test_enc_02_guard_holds_the_form_of_a_label(beside: str) -> None:
    message = f"<message to='b@b.test'>{SEAL}{beside}</message>"
    with pytest.raises(PeerFault):
        seals.check_sealed(tree.parse(message.encode()))


def test_guard_lets_pass_what_is_shown() -> None:
    text = shown(label(f"<label>{ess(MARKED)}</label>"))
    message = f"<message to='b@b.test'>{SEAL}{text}</message>"
    seals.check_sealed(tree.parse(message.encode()))
