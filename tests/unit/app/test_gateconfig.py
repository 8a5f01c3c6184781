"""What `tillie gate run` is told: options, variables, the table [gate]."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from proxy.app.addresses import Address
from proxy.app.gateconfig import GateConfig, load
from proxy.app.sources import UsageFault
from proxy.errors import ConfigFault
from proxy.gate.policy import Policies, Rule
from tests.support.pages import blocks

GIVEN: dict[str, object] = {
    "domain": ("a.test",),
    "listen": ("0.0.0.0:5222",),
    "backend": ("127.0.0.1:5300",),
    "cert": ("cert.pem",),
    "key": ("key.pem",),
    "state": "state",
}
TWO = GIVEN | {"domain": ("a.test", "b.test")}


def of_file(tmp_path: Path, text: str, **options: object) -> GateConfig:
    path = tmp_path / "tillie.toml"
    path.write_text(text, encoding="utf-8")
    return load({"config": str(path), **options}, {})


def test_the_manuals_settings(tmp_path: Path) -> None:
    """All tables of docs/gate.md in one file, with the lines that it leaves to choose."""
    secret = tmp_path / "component-secret"
    secret.write_text("a secret of the components")
    secret.chmod(0o600)
    settings, row, enforced = blocks("gate.md", "toml")
    settings = settings.replace("/etc/tillie/component-secret", str(secret))
    for line in ('proxy-protocol = "v2"', 'ca = "/etc/tillie/authorities.pem"'):
        assert f"# {line}" in settings + enforced
        settings = settings.replace(f"# {line}", line)
        enforced = enforced.replace(f"# {line}", line)
    before = of_file(tmp_path, settings + enforced)
    assert before.domains == ("example.org",)
    assert len(before.listeners) == 4
    assert before.warnings == ()
    assert before.policies == Policies(default="optional")
    locked = settings.replace('policy = "optional"\n', "")
    after = of_file(tmp_path, locked + row + enforced).policies
    network = ipaddress.ip_network("192.0.2.0/24")
    assert after.default == "keys-only"
    assert after.rules == (
        Rule(account="*-bot@example.org", network=network, policy="optional"),
    )


def test_every_setting_from_the_file(tmp_path: Path) -> None:
    config = of_file(
        tmp_path,
        """
        clear = ["*@bots.example"]
        [gate]
        domain = ["A.test.", "b.test"]
        listen = ["0.0.0.0:5222", "[::]:5222"]
        listen_tls = "0.0.0.0:5223"
        backend = ["127.0.0.1:5300", "b.test=127.0.0.2:5300"]
        cert = ["a.pem", "b.test=b.pem"]
        key = ["a.key", "b.test=/etc/b.key"]
        store = "postgresql://gate@db/tillie"
        state = "kept"
        proxy-protocol = "v2"
        proxy-from = ["10.0.0.0/8", "2001:db8::/32"]
        metrics = "127.0.0.1:9100"
        strangers = 100
        strangers-each = 10
        log-level = "debug"
        log-json = true
        [[gate.policy]]
        account = "Bot-*@*"
        network = "10.0.0.0/8"
        policy = "optional"
        [[gate.policy]]
        domain = "b.test"
        policy = "keys-only"
        """,
    )
    assert config.domains == ("a.test", "b.test")
    assert [str(one) for one in config.listeners] == [
        "0.0.0.0:5222 (starttls)",
        "[::]:5222 (starttls)",
        "0.0.0.0:5223 (tls)",
    ]
    assert config.backends == {
        "a.test": Address("127.0.0.1", 5300),
        "b.test": Address("127.0.0.2", 5300),
    }
    assert config.certificates == {
        "a.test": (tmp_path / "a.pem", tmp_path / "a.key"),
        "b.test": (tmp_path / "b.pem", Path("/etc/b.key")),
    }
    assert config.store == "postgresql://gate@db/tillie"
    assert config.state == tmp_path / "kept"
    assert config.proxy_out == "v2"
    assert [str(one) for one in config.proxy_in] == ["10.0.0.0/8", "2001:db8::/32"]
    assert config.metrics == Address("127.0.0.1", 9100)
    assert (config.strangers, config.strangers_each) == (100, 10)
    assert (config.log_level, config.log_json) == ("debug", True)
    assert config.policies == Policies(
        (
            Rule(
                "optional",
                account="bot-*@*",
                network=ipaddress.ip_network("10.0.0.0/8"),
            ),
            Rule("keys-only", domain="b.test"),
        )
    )
    assert [one.partition(" (")[0] for one in config.warnings] == [
        "there is no directory"
    ]
    assert config.again() == config


def test_every_setting_has_a_variable() -> None:
    config = load(
        {},
        {
            "TILLIE_DOMAIN": "a.test b.test",
            "TILLIE_LISTEN": "0.0.0.0:5222",
            "TILLIE_LISTEN_TLS": "0.0.0.0:5223",
            "TILLIE_BACKEND": "127.0.0.1:5300",
            "TILLIE_CERT": "a.test=a.pem,b.test=b.pem",
            "TILLIE_KEY": "k.pem",
            "TILLIE_POLICY": "optional",
            "TILLIE_STORE": "postgresql://db",
            "TILLIE_STATE": "/var/lib/gate",
            "TILLIE_PROXY_PROTOCOL": "V1",
            "TILLIE_PROXY_FROM": "10.0.0.1",
            "TILLIE_METRICS": "[::1]:9100",
            "TILLIE_STRANGERS": "7",
        },
    )
    assert config.domains == ("a.test", "b.test")
    assert config.certificates["b.test"][0].name == "b.pem"
    assert config.policies == Policies(default="optional")
    assert (config.proxy_out, config.strangers) == ("v1", 7)
    assert config.metrics == Address("::1", 9100)


def test_defaults() -> None:
    config = load(GIVEN, {})
    assert config.policies == Policies()
    assert (config.store, config.proxy_out, config.proxy_in) == ("", None, ())
    assert config.metrics is None


@pytest.mark.parametrize("missing", ["domain", "listen", "backend", "cert", "key"])
def test_what_is_missing_is_named_with_an_example(missing: str) -> None:
    options = {name: value for name, value in GIVEN.items() if name != missing}
    with pytest.raises(ConfigFault) as caught:
        load(options, {})
    assert f"--{missing} " in caught.value.hint or "--cert" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"domain": ("a.test", "A.test.")}, "twice"),
        ({"domain": ("x@a.test",)}, "not a domain"),
        ({"domain": ("127.0.0.1",)}, "not a domain"),
        ({"backend": ("127.0.0.1",)}, "HOST:PORT"),
        ({"backend": ("c.test=127.0.0.1:1", "127.0.0.1:2")}, "no domain of"),
        ({"backend": ("127.0.0.1:1", "127.0.0.1:2")}, "names none of the domains"),
        ({"backend": ("a.test=127.0.0.1:1", "A.test=127.0.0.1:2")}, "twice"),
        ({"policy": "hosted"}, "not built yet"),
        ({"policy": "open"}, "none of"),
        ({"proxy_protocol": "v3"}, "none of"),
        ({"proxy_from": ("10.0.0.1/8",)}, "not a network"),
        ({"proxy_from": ("everywhere",)}, "not a network"),
        ({"metrics": "nowhere"}, "HOST:PORT"),
        ({"strangers": "0"}, "from 1"),
        ({"strangers": "many"}, "whole number"),
        ({"listen": ("example.org:5222",)}, "needs an IP address"),
    ],
)
def test_wrong_usage(options: dict[str, object], word: str) -> None:
    with pytest.raises(UsageFault) as caught:
        load(GIVEN | options, {})
    assert word in caught.value.text


def test_hosted_is_for_later(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault) as caught:
        of_file(tmp_path, "[[gate.policy]]\npolicy = 'hosted'\n", **GIVEN)
    assert "not built yet" in caught.value.text
    assert "optional" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[gate]\nbackends = 'x'", "gate.backend"),
        ("[gate]\nproxy-protocoll = 'v1'", "gate.proxy-protocol"),
        ("[[gate.policy]]\nacount = 'x'\npolicy = 'optional'", "gate.policy.account"),
        ("[gates]\n", "did you mean gate?"),
    ],
)
def test_unknown_keys_are_refused_with_a_suggestion(
    tmp_path: Path, text: str, hint: str
) -> None:
    with pytest.raises(ConfigFault) as caught:
        of_file(tmp_path, text, **GIVEN)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "[[gate.policy]]\naccount = 'x@*'",
        "[[gate.policy]]\ndomain = 'c.test'\npolicy = 'optional'",
        "[[gate.policy]]\nnetwork = 'x'\npolicy = 'optional'",
        "gate = 1",
    ],
)
def test_rows_of_another_form(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigFault):
        of_file(tmp_path, text, **GIVEN)


def test_loc_16_metrics_are_for_this_machine() -> None:
    with pytest.raises(ConfigFault) as caught:
        load(GIVEN | {"metrics": "0.0.0.0:9100"}, {})
    assert "--metrics-beyond-this-machine" in caught.value.hint
    load(GIVEN | {"metrics": "0.0.0.0:9100", "metrics_beyond_this_machine": True}, {})


def test_a_server_elsewhere_is_warned_about() -> None:
    config = load(GIVEN | {"backend": ("192.0.2.1:5222",)}, {})
    assert "not on this machine" in config.warnings[0]


def test_one_backend_may_be_for_all_and_one_for_some() -> None:
    config = load(TWO | {"backend": ("127.0.0.1:1", "b.test=127.0.0.1:2")}, {})
    assert config.backends["a.test"].port == 1
    assert config.backends["b.test"].port == 2
