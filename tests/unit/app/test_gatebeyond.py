"""What a gate is told about other domains and about what may be said in clear."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.testing import MemoryReactorClock

from proxy.app.addresses import Address
from proxy.app.gatebeyond import Beyond, borders
from proxy.app.gateconfig import load
from proxy.errors import ConfigFault
from proxy.gate.enforce import Enforcement
from proxy.net.registry import RegistryWorker
from tests.support.persons import NOW
from tests.support.signer import MemorySigner
from tests.unit.app.test_gateconfig import GIVEN, of_file


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("a secret of sorts\n")
    path.chmod(0o600)
    return path


def test_every_setting_from_the_file(tmp_path: Path, secret: Path) -> None:
    config = of_file(
        tmp_path,
        f"""
        [gate]
        domain = "a.test"
        listen = "0.0.0.0:5222"
        backend = "127.0.0.1:5300"
        cert = "a.pem"
        key = "a.key"
        state = "kept"
        component = "127.0.0.1:5347"
        component-secret-file = "{secret.name}"
        resolver = "127.0.0.1:5353"
        [gate.enforce]
        outbound = "refuse"
        inbound = "mark"
        [gate.between]
        probe = false
        ca = "anchors.pem"
        """,
    )
    assert config.beyond == Beyond(
        component=Address("127.0.0.1", 5347),
        secret=b"a secret of sorts",
        enforcement=Enforcement("refuse", "mark"),
        probe=False,
        anchors=tmp_path / "anchors.pem",
        resolver=Address("127.0.0.1", 5353),
    )
    assert config.warnings == ()
    assert "secret of sorts" not in repr(config)


def test_every_setting_has_a_variable(secret: Path) -> None:
    config = load(
        GIVEN,
        {
            "TILLIE_COMPONENT": "127.0.0.1:5347",
            "TILLIE_COMPONENT_SECRET_FILE": str(secret),
            "TILLIE_RESOLVER": "127.0.0.1:53",
            "TILLIE_ENFORCE_OUTBOUND": "pass",
            "TILLIE_ENFORCE_INBOUND": "refuse",
            "TILLIE_BETWEEN_PROBE": "no",
            "TILLIE_BETWEEN_CA": "/etc/anchors.pem",
        },
    )
    assert config.beyond.component == Address("127.0.0.1", 5347)
    assert config.beyond.enforcement == Enforcement("pass", "refuse")
    assert (config.beyond.probe, config.beyond.anchors) == (
        False,
        Path("/etc/anchors.pem"),
    )
    assert config.warnings == ()


def test_defaults() -> None:
    config = load(GIVEN, {})
    assert config.beyond == Beyond()
    assert config.beyond.enforcement == Enforcement("keyless", "pass")
    assert config.beyond.probe
    assert [one for one in config.warnings if "--component" in one]


def test_a_directory_on_another_machine_is_warned_of(secret: Path) -> None:
    options = {"component": "192.0.2.1:5347", "component_secret_file": str(secret)}
    (warning,) = load(GIVEN | options, {}).warnings
    assert "192.0.2.1:5347" in warning


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"component": "127.0.0.1:5347"}, "--component-secret-file"),
        ({"component_secret_file": "secret"}, "--component too"),
        ({"component": "5347", "component_secret_file": "x"}, "HOST:PORT"),
        ({"component": "127.0.0.1:1", "component_secret_file": "absent"}, "be read"),
        ({"resolver": "ns.test:53"}, "IP address"),
    ],
)
def test_what_cannot_be_used(options: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load(GIVEN | options, {})
    assert word in caught.value.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TILLIE_ENFORCE_OUTBOUND", "never"),
        ("TILLIE_ENFORCE_INBOUND", "keyless"),
        ("TILLIE_BETWEEN_PROBE", "sometimes"),
    ],
)
def test_words_that_are_none(name: str, value: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load(GIVEN, {name: value})
    assert name in caught.value.text


@pytest.mark.parametrize("text", ["", "\n", "x" * 2_000])
def test_a_secret_that_is_none(secret: Path, text: str) -> None:
    secret.write_text(text)
    options = {"component": "127.0.0.1:5347", "component_secret_file": str(secret)}
    with pytest.raises(ConfigFault):
        load(GIVEN | options, {})


def test_a_secret_that_others_can_read_is_refused(secret: Path) -> None:
    secret.chmod(0o640)
    options = {"component": "127.0.0.1:5347", "component_secret_file": str(secret)}
    with pytest.raises(ConfigFault) as caught:
        load(GIVEN | options, {})
    assert "chmod 600" in caught.value.hint


@pytest.mark.parametrize(
    ("inner", "suggestion"),
    [
        ('[gate.enforce]\noutbond = "pass"', "gate.enforce.outbound"),
        ("[gate.between]\nprobes = true", "gate.between.probe"),
        ('[gate]\ncomponents = "x"', "gate.component"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(
    tmp_path: Path, inner: str, suggestion: str
) -> None:
    with pytest.raises(ConfigFault) as caught:
        of_file(tmp_path, inner)
    assert suggestion in caught.value.hint


def test_one_directory_for_each_domain(secret: Path) -> None:
    reactor = MemoryReactorClock()
    domains = ("a.test", "b.test")
    worker = RegistryWorker(reactor, lambda: None)  # type: ignore[arg-type,return-value]
    beyond = Beyond(component=Address("127.0.0.1", 5347), secret=b"s", probe=False)
    made = borders(reactor, domains, beyond, worker, MemorySigner(domains, NOW))
    assert {name: one.directory.address for name, one in made.components.items()} == {
        "a.test": "keys.a.test",
        "b.test": "keys.b.test",
    }
    made.start()
    assert [dial[:2] for dial in reactor.tcpClients] == [("127.0.0.1", 5347)] * 2
    assert made.domains is None


def test_a_file_of_certificates_that_is_none_is_said_at_start(tmp_path: Path) -> None:
    reactor = MemoryReactorClock()
    worker = RegistryWorker(reactor, lambda: None)  # type: ignore[arg-type,return-value]
    beyond = Beyond(anchors=tmp_path / "absent.pem")
    with pytest.raises(ConfigFault):
        borders(reactor, ("a.test",), beyond, worker, MemorySigner(["a.test"], NOW))
