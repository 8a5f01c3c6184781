"""Behind binding: who is vouched for, what passes before, resumption (14.7 to 14.13)."""

from __future__ import annotations

import pytest

from proxy.core.streams import SASL, header
from proxy.gate.policy import Policies
from proxy.keys.handshake import Presentation, objection_statement, vouch_statement
from proxy.keys.identity import DevicePrivate
from proxy.keys.manifest import device_statement, with_device
from proxy.suites.fields import b64
from tests.support.persons import HOUR, JULIET, NOW, ROMEO, Person, ask
from tests.unit.gate.staging import AUTH, DOMAIN, Stage, ended, plain

SM = "urn:xmpp:sm:3"
SASL2 = "urn:xmpp:sasl:2"
OWN_KEYS = (
    "<iq type='get' id='k1'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
    "<items node='urn:x-tillie:key:0'/></pubsub></iq>"
)
LINK = (
    "<message to='juliet@capulet.example' type='normal' id='l1'>"
    "<link-request xmlns='urn:x-tillie:lane:0' device='AAAA'>AAAA</link-request>"
    "<no-store xmlns='urn:xmpp:hints'/><no-copy xmlns='urn:xmpp:hints'/></message>"
)
OPTIONAL = Policies(default="optional")


def test_a_key_is_vouched_for() -> None:
    stage = Stage().bound()
    assert stage.person is not None
    said = stage.client(stage.vouch())
    assert said.startswith(f"<vouched xmlns='{AUTH}'><token>{{".encode())
    assert stage.stream.line.account == JULIET
    assert b"urn:x-tillie" not in stage.to_server


def test_the_first_key_is_a_line_in_the_log() -> None:
    assert any("first key of juliet" in one for one in Stage().open().said)


def test_a_known_manifest_need_not_be_sent() -> None:
    first = Stage().open()
    again = Stage(person=first.person, registry=first.registry).bound()
    assert b"<vouched" in again.client(again.vouch(sent=False))


def test_an_unknown_manifest_is_wanted() -> None:
    stage = Stage().bound()
    assert stage.client(stage.vouch(sent=False)) == f"<wanted xmlns='{AUTH}'/>".encode()
    assert b"<vouched" in stage.client(stage.vouch())


def test_an_older_manifest_is_stale() -> None:
    stage = Stage()
    assert stage.person is not None
    old = stage.person.manifest
    stage.person.add(DevicePrivate.generate())
    ask(stage.registry, stage.person.vouch())
    stage.bound()
    said = stage.client(stage.vouch(old))
    assert said.startswith(f"<stale xmlns='{AUTH}'><manifest>".encode())
    assert b"<vouched" in stage.client(stage.vouch())


def test_another_root_is_refused() -> None:
    """I2: who stole a password and logs in before the owner notices gets nothing."""
    stage = Stage(person=Person(JULIET))
    stage.bound()
    ask(stage.registry, Person(JULIET).vouch())
    assert ended(stage.client(stage.vouch()), "not-authorized", "root-changed")


# -- what vouches, and what does not ------------------------------------------


def statement(stage: Stage, **changed: object) -> str:
    """A `<vouch/>` whose signature is over something else."""
    assert stage.person is not None
    channel = stage.channel
    values = {
        "nonce": channel.nonce,
        "exporter": channel.exporter,
        "jid": stage.jid,
        "digest": stage.person.manifest.digest,
        "root": stage.root,
        "by": stage.device,
    } | changed
    signed = type(channel)(DOMAIN, values["nonce"], values["exporter"])
    shown = Presentation(stage.device.public, values["root"])
    proof = values["by"].sign(
        vouch_statement(signed, shown, values["jid"], values["digest"])
    )
    return (
        f"<vouch xmlns='{AUTH}' digest='{b64(stage.person.manifest.digest)}'>"
        f"<manifest>{stage.person.manifest.document}</manifest>"
        f"<proof>{b64(proof)}</proof></vouch>"
    )


WRONG = {
    "auth_11_nonce": {"nonce": bytes(16)},
    "auth_11_exporter": {"exporter": bytes(32)},
    "auth_12_jid": {"jid": "juliet@capulet.example/other"},
    "auth_12_account": {"jid": "romeo@capulet.example/r"},
    "digest": {"digest": bytes(32)},
    "root": {"root": bytes(32)},
    "auth_10_device": {"by": DevicePrivate.generate()},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG)
def test_a_signature_over_anything_else_vouches_for_nothing(
    changed: dict[str, object],
) -> None:
    stage = Stage().bound()
    said = stage.client(statement(stage, **changed))
    assert ended(said, "not-authorized", "bad-proof")
    assert not stage.keyed


@pytest.mark.parametrize(
    "spoil",
    [
        ("<proof>", "<proof>A"),
        ("</proof>", "</proof><proof>AAAA</proof>"),
        ("<proof>", "<other/><proof>"),
        ("digest=", "extra='x' digest="),
        ("digest=", "other="),
        ("<manifest>", "<manifest><x/>"),
        ("<manifest>", "<manifest>{"),
    ],
)
def test_a_vouch_of_another_form(spoil: tuple[str, str]) -> None:
    stage = Stage().bound()
    said = stage.client(stage.vouch().replace(*spoil, 1))
    assert ended(said, "not-authorized", "bad-proof")


def test_auth_12_the_account_is_what_the_server_names() -> None:
    """Whoever the client said it is, the token is for whom the server bound."""
    stage = Stage(person=Person(ROMEO))
    stage.presented()
    stage.client(plain("juliet", "secret"))
    stage.server(f"<success xmlns='{SASL}'/>")
    stage.client(header(to=DOMAIN, from_=JULIET))
    stage.greet("<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>")
    stage.bind("romeo@capulet.example/r")
    assert b"<vouched" in stage.client(stage.vouch())
    assert stage.keyed == [ROMEO]


@pytest.mark.parametrize(
    "jid", ["juliet@elsewhere.example/r", "capulet.example/r", "", "@/", "a@b@c/d"]
)
def test_auth_12_a_server_that_binds_nobody_of_its_own(jid: str) -> None:
    stage = Stage().logged_in()
    assert ended(stage.bind(jid), "internal-server-error")


@pytest.mark.parametrize("resource", ["x" * 1023, "\u202ereversed", "r\u00e9s"])
def test_auth_17_any_resource_that_the_server_bound(resource: str) -> None:
    stage = Stage().bound(resource=resource)
    assert b"<vouched" in stage.client(stage.vouch())


# -- before it ----------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        "<message to='romeo@capulet.example' id='m'><body>x</body></message>",
        "<presence/>",
        "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq>",
        "<iq type='set' id='r'><query xmlns='jabber:iq:register'><remove/></query></iq>",
        OWN_KEYS.replace("urn:x-tillie:key:0", "urn:xmpp:bookmarks:1"),
        OWN_KEYS.replace("<items", "<items node='x'/><items"),
        OWN_KEYS.replace("type='get'", "type='get' to='romeo@capulet.example'"),
        LINK,
    ],
)
def test_nothing_else_passes_before(sent: str) -> None:
    stage = Stage().bound()
    assert stage.passed(sent) == b""
    assert b"<key-required xmlns='urn:x-tillie:errors:0'/>" in stage.to_client
    assert not stage.closed


def test_errors_are_not_answered() -> None:
    stage = Stage().bound()
    assert stage.client("<message type='error'><x/></message>") == b""


@pytest.mark.parametrize("nonza", [f"<enable xmlns='{SM}'/>", f"<r xmlns='{SM}'/>"])
def test_no_counting_begins_before(nonza: str) -> None:
    stage = Stage().bound()
    assert stage.passed(nonza) == b""
    assert not stage.closed


def test_own_keys_and_pings_pass_both_ways() -> None:
    stage = Stage().bound()
    ping = "<iq type='get' id='p1'><ping xmlns='urn:xmpp:ping'/></iq>"
    for sent, answer in (
        (OWN_KEYS, "<iq type='result' id='k1' to='juliet@capulet.example/r'/>"),
        (ping, "<iq type='result' id='p1'/>"),
    ):
        assert stage.passed(sent) == sent.encode()
        assert stage.server(answer) == answer.encode()
    theirs = ping.replace("p1", "s1")
    assert stage.server(theirs) == theirs.encode()
    answer = "<iq type='result' id='s1'/>"
    assert stage.passed(answer) == answer.encode()
    assert stage.passed(answer) == b""


def test_id_03_a_stranger_answers_no_question_of_ours() -> None:
    """Neither who is bound nor what the own keys are is for others to say."""
    stage = Stage().logged_in()
    bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>"
    stage.client(f"<iq type='set' id='b1'>{bind}</iq>")
    stage.server(
        "<iq type='result' id='b1' from='mallory@evil.example'>"
        f"{bind.replace('/>', '><jid>romeo@capulet.example/r</jid></bind>')}</iq>"
    )
    assert stage.stream.line.account == ""
    stage = Stage().bound()
    stage.client(OWN_KEYS)
    assert (
        stage.server("<iq type='result' id='k1' from='mallory@evil.example'/>") == b""
    )


def test_what_the_server_sends_meanwhile_comes_in_order() -> None:
    stage = Stage().bound()
    early = "<message id='1'><body>a</body></message><presence id='2'/>"
    assert stage.server(early) == b""
    said = stage.client(stage.vouch())
    assert said.endswith(early.encode())


def test_too_much_meanwhile_ends_the_stream() -> None:
    stage = Stage().bound()
    for _ in range(12):
        stage.server(f"<message><body>{'x' * 100_000}</body></message>")
        if stage.closed:
            break
    assert ended(stage.to_client, "resource-constraint")


def test_who_does_not_vouch_in_time_is_ended() -> None:
    stage = Stage().bound()
    stage.wait(31_000)
    assert ended(stage.to_client, "policy-violation", "key-required")


def test_dir_11_no_registry_no_login() -> None:
    stage = Stage().bound()
    stage.away = True
    assert ended(stage.client(stage.vouch()), "resource-constraint")


def test_dir_11_who_is_in_stays_in() -> None:
    stage = Stage().open()
    stage.away = True
    assert stage.client(stage.vouch()) == b""
    assert not stage.closed
    stage.away = False
    assert b"<vouched" in stage.client(stage.vouch())


def test_stanzas_flow_while_a_renewal_is_judged() -> None:
    stage = Stage().open()
    stage.held = True
    stage.client(stage.vouch())
    assert stage.passed("<presence/>") == b"<presence/>"
    assert b"<vouched" in stage.release()


# -- devices ------------------------------------------------------------------


def test_removing_a_device_ends_its_streams() -> None:
    stage = Stage()
    assert stage.person is not None
    other = DevicePrivate.generate()
    stage.person.add(other)
    stage.open()
    laptop = Stage(person=stage.person, registry=stage.registry)
    laptop.device = other
    laptop.bound()
    assert b"<vouched" in laptop.client(laptop.vouch())
    stage.person.drop(other)
    assert b"<vouched" in stage.client(stage.vouch())
    assert stage.revoked == [(JULIET, (other.public,))]
    said = laptop.call(laptop.stream.revoke, (other.public,))
    assert ended(said, "not-authorized", "unknown-device")
    assert not stage.closed


def test_what_another_gate_removed_ends_here_too() -> None:
    stage = Stage().open()
    stage.call(stage.stream.keep_only, (stage.device.public, bytes(32)))
    assert not stage.closed
    said = stage.call(stage.stream.keep_only, (bytes(32),))
    assert ended(said, "not-authorized", "unknown-device")


@pytest.mark.parametrize("devices", [None, (bytes(32),), ()])
def test_a_removed_account_ends_its_own_streams_and_a_key_those_without(
    devices: tuple[bytes, ...] | None,
) -> None:
    """14.5: who came in without a key stays until the account has one; one without a
    device in use is still one."""
    old = Stage(person=None, policies=Policies(default="optional")).bound(shown=False)
    assert old.passed("<presence/>") == b"<presence/>"
    said = old.call(old.stream.keep_only, devices)
    if devices is None:
        assert old.passed("<presence/>") == b"<presence/>"
    else:
        assert ended(said, "not-authorized", "key-required")
        assert b"tillie link" in said
    new = Stage().open()
    said = new.call(new.stream.keep_only, devices)
    assert ended(said, "not-authorized", "unknown-device")


def test_i5_a_second_device_waits_to_be_linked() -> None:
    first = Stage().open()
    person = first.person
    assert person is not None
    new = Stage(person=person, registry=first.registry)
    new.device, new.root = DevicePrivate.generate(), None
    new.bound()
    said = new.client(new.vouching(None))
    assert said.startswith(f"<linking xmlns='{AUTH}'><manifest>".encode())
    new.wait(1_000_000)
    assert not new.closed, "a person has to walk over to the other device"
    assert new.passed(LINK) == LINK.encode()
    assert new.passed(OWN_KEYS) == OWN_KEYS.encode()
    answer = LINK.replace("link-request", "link-answer").replace(
        "<message", "<message from='juliet@capulet.example/old'"
    )
    assert new.server(answer) == answer.encode()
    signed = new.device.sign(
        device_statement(JULIET, person.fingerprint, new.device.public)
    )
    manifest = with_device(
        person.manifest, person.root, new.device.public, signed, "new", NOW
    )
    ask(first.registry, person.vouch(manifest))
    person.manifests.append(manifest)
    assert b"<vouched" in new.client(new.vouch(manifest, sent=False))
    assert new.passed("<presence/>")


@pytest.mark.parametrize(
    "sent",
    [
        "<presence/>",
        LINK.replace("juliet@", "romeo@"),
        LINK.replace("<no-store", "<body>x</body><no-store"),
        LINK.replace("<no-store", "text<no-store"),
        LINK.replace("link-request", "keyreq"),
        LINK.replace(
            "</message>", "<link-answer xmlns='urn:x-tillie:lane:0'/></message>"
        ),
        "<message to='juliet@capulet.example'><body>x</body></message>",
    ],
)
def test_i5_nothing_else_passes_while_linking(sent: str) -> None:
    first = Stage().open()
    new = Stage(person=first.person, registry=first.registry)
    new.device, new.root = DevicePrivate.generate(), None
    new.bound()
    new.client(new.vouching(None))
    assert new.passed(sent) == b""
    assert b"<key-required" in new.to_client


# -- resets -------------------------------------------------------------------


def test_i2_a_device_is_told_of_a_reset_and_objects() -> None:
    from proxy.keys.registry import Reset

    stage = Stage().open()
    due = NOW + 72 * HOUR
    with stage.registry.transaction():
        stage.registry.put_reset(Reset(JULIET, NOW, due))
    said = stage.client(stage.vouch())
    assert f"<vouched xmlns='{AUTH}' reset='{due}'>".encode() in said
    signed = stage.device.sign(
        objection_statement(DOMAIN, JULIET, stage.device.public, due)
    )
    stage.client(f"<object xmlns='{AUTH}' reset='{due}'>{b64(signed)}</object>")
    assert not stage.closed
    assert b"reset=" not in stage.client(stage.vouch())


@pytest.mark.parametrize("due", ["", "x", "-1", str(2**70), "0"])
def test_i2_an_objection_that_nobody_signed(due: str) -> None:
    stage = Stage().open()
    said = stage.client(f"<object xmlns='{AUTH}' reset='{due}'>AAAA</object>")
    assert ended(said, "not-authorized", "bad-proof")


# -- presenting out of order --------------------------------------------------


@pytest.mark.parametrize("far", ["presented", "logged_in", "bound", "open"])
def test_auth_10_a_second_presentation_has_the_one_answer(far: str) -> None:
    stage = getattr(Stage(), far)()
    again = stage.presentation()
    assert ended(stage.client(again), "policy-violation", "bad-proof")
    assert stage.closed
    assert again.encode() not in stage.to_server


# -- resumption ---------------------------------------------------------------


def resumable(stage: Stage, previd: str = "p1") -> None:
    assert stage.passed(f"<enable xmlns='{SM}' resume='true'/>")
    stage.server(f"<enabled xmlns='{SM}' id='{previd}' resume='true'/>")


def test_tls_16_an_own_stream_is_resumed() -> None:
    first = Stage().open()
    resumable(first)
    again = Stage(person=first.person, registry=first.registry).logged_in()
    resume = f"<resume xmlns='{SM}' previd='p1' h='3'/>"
    assert again.passed(resume) == resume.encode()
    said = again.server(f"<resumed xmlns='{SM}' previd='p1' h='4'/><message id='5'/>")
    assert said.endswith(b"<message id='5'/>")
    assert again.passed("<presence/>")
    again.jid = first.jid
    assert b"<vouched" in again.client(again.vouch()), "signed over the old full JID"


def test_tls_16_somebody_else_s_stream_is_not() -> None:
    first = Stage().open()
    resumable(first)
    thief = Stage(person=Person(ROMEO), registry=first.registry).logged_in()
    assert thief.passed(f"<resume xmlns='{SM}' previd='p1' h='3'/>") == b""
    assert b"<item-not-found" in thief.to_client
    thief.bind("romeo@capulet.example/r")
    assert b"<vouched" in thief.client(thief.vouch())


def test_tls_16_a_guessed_stream_is_not() -> None:
    stage = Stage().logged_in()
    assert stage.passed(f"<resume xmlns='{SM}' previd='guess' h='0'/>") == b""
    assert not stage.closed


def test_a_removed_device_resumes_nothing() -> None:
    stage = Stage()
    assert stage.person is not None
    other = DevicePrivate.generate()
    stage.person.add(other)
    stage.open()
    resumable(stage)
    stage.person.drop(stage.device)
    ask(stage.registry, stage.person.vouch(device=other))
    again = Stage(person=stage.person, registry=stage.registry)
    again.root = None
    again.logged_in()
    assert again.passed(f"<resume xmlns='{SM}' previd='p1' h='0'/>") == b""


def test_a_refused_resumption_binds_and_vouches() -> None:
    first = Stage().open()
    resumable(first)
    again = Stage(person=first.person, registry=first.registry).logged_in()
    again.client(f"<resume xmlns='{SM}' previd='p1' h='3'/>")
    failed = f"<failed xmlns='{SM}'><item-not-found xmlns='urn:x'/></failed>"
    assert again.server(failed) == failed.encode()
    again.bind("juliet@capulet.example/new")
    assert again.passed("<presence/>") == b""
    assert b"<vouched" in again.client(again.vouch(sent=False))


def test_a_server_that_resumes_another_stream() -> None:
    first = Stage().open()
    resumable(first)
    again = Stage(person=first.person, registry=first.registry).logged_in()
    again.client(f"<resume xmlns='{SM}' previd='p1' h='3'/>")
    said = again.server(f"<resumed xmlns='{SM}' previd='p2' h='4'/>")
    assert ended(said, "internal-server-error")


# -- SASL2 --------------------------------------------------------------------

SUCCESS = (
    f"<success xmlns='{SASL2}'><authorization-identifier>{{}}</authorization-identifier>"
    f"<bound xmlns='urn:xmpp:bind:0'><enabled xmlns='{SM}' id='q1' resume='true'/></bound>"
    "<token xmlns='urn:xmpp:fast:0' token='secret'/></success>"
)


def in_sasl2(stage: Stage) -> Stage:
    stage.presented(
        f"<authentication xmlns='{SASL2}'><mechanism>PLAIN</mechanism></authentication>"
    )
    assert stage.passed(f"<authenticate xmlns='{SASL2}' mechanism='PLAIN'/>")
    return stage


def test_auth_07_sasl2_success_is_kept_until_vouched() -> None:
    stage = in_sasl2(Stage())
    stage.jid = "juliet@capulet.example/b2"
    said = stage.server(SUCCESS.format(stage.jid) + "<stream:features/>")
    assert said == f"<bound xmlns='{AUTH}' jid='{stage.jid}'/>".encode()
    assert b"secret" not in stage.to_client
    said = stage.client(stage.vouch())
    assert said.index(b"<vouched") < said.index(b"<success")
    assert said.endswith(b"<stream:features/>")
    again = Stage(person=stage.person, registry=stage.registry).logged_in()
    assert again.passed(f"<resume xmlns='{SM}' previd='q1' h='0'/>")


def test_auth_07_sasl2_another_key_never_sees_the_success() -> None:
    stage = in_sasl2(Stage())
    ask(stage.registry, Person(JULIET).vouch())
    stage.jid = "juliet@capulet.example/b2"
    stage.server(SUCCESS.format(stage.jid))
    assert ended(stage.client(stage.vouch()), "not-authorized", "root-changed")
    assert b"<success" not in stage.to_client
    assert b"secret" not in stage.to_client


# -- optional -----------------------------------------------------------------


def test_optional_streams_are_open_and_never_vouched_for() -> None:
    stage = Stage(person=None, policies=OPTIONAL)
    assert b"<jid>" in stage.logged_in(shown=False).bind("juliet@capulet.example/r")
    assert stage.passed("<presence/>")
    assert ended(
        stage.client(f"<vouch xmlns='{AUTH}'/>"), "not-authorized", "bad-proof"
    )


def test_i2_an_account_with_a_key_needs_it_under_optional_too() -> None:
    stage = Stage(person=None, policies=OPTIONAL)
    ask(stage.registry, Person(JULIET).vouch())
    stage.logged_in(shown=False)
    said = stage.bind("juliet@capulet.example/r")
    assert ended(said, "not-authorized", "key-required")
    assert b"<jid>" not in said


def test_optional_fails_closed_too() -> None:
    stage = Stage(person=None, policies=OPTIONAL).logged_in(shown=False)
    stage.away = True
    assert ended(stage.bind("juliet@capulet.example/r"), "resource-constraint")
