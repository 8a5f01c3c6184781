from __future__ import annotations

from pathlib import Path

import pytest

from proxy.app.config import Address, Config, Listener, load, state_folder
from proxy.app.sources import UsageFault
from proxy.app.terminal import escaped
from proxy.errors import ConfigFault

PUBLIC = "listen_beyond_this_machine"


def of_file(tmp_path: Path, text: str, **options: object) -> Config:
    path = tmp_path / "tillie.toml"
    path.write_text(text, encoding="utf-8")
    return load({"config": str(path), **options}, {})


def test_nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    config = load({}, {"PATH": "/bin"})
    assert config.listen == (Address("127.0.0.1", 5222),)
    assert config.listen_tls == ()
    assert [str(one) for one in config.listeners] == ["127.0.0.1:5222 (starttls)"]
    assert config.state == tmp_path / "tillie"
    assert (config.resolver, config.ca, config.servers, config.tls) == (
        None,
        None,
        {},
        {},
    )
    assert (config.clear, config.require, config.unknown) == ((), (), "ask")
    assert (config.log_level, config.log_json, config.fallback) == ("info", False, True)
    assert config.warnings == ()


def test_every_setting_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    config = of_file(
        tmp_path,
        """
        listen = ["127.0.0.1:5222", "[::1]:5222"]
        listen-tls = "127.0.0.1:5223"
        state = "kept"
        resolver = "[::1]:53"
        ca = "ca.pem"
        log-level = "Debug"
        log_json = true
        clear = ["*@Bots.example"]
        fallback = false
        [servers."Example.org."]
        server = "localhost:5222"
        tls = "off"
        [policy]
        unknown = "require"
        require = ["boss@*"]
        """,
    )
    assert config.listen == (Address("127.0.0.1", 5222), Address("::1", 5222))
    assert config.listen_tls == (Address("127.0.0.1", 5223),)
    assert config.state == tmp_path / "kept"
    assert config.resolver == Address("::1", 53)
    assert config.ca == tmp_path / "ca.pem"
    assert (config.log_level, config.log_json, config.fallback) == (
        "debug",
        True,
        False,
    )
    assert config.servers == {"example.org": Address("127.0.0.1", 5222)}
    assert config.tls == {"example.org": "off"}
    assert (config.clear, config.require) == (("*@bots.example",), ("boss@*",))
    assert config.unknown == "require"
    assert config.warnings == ("TLS is off towards the server of example.org",)


def test_every_setting_from_variables(tmp_path: Path) -> None:
    config = load(
        {},
        {
            "TILLIE_LISTEN": "127.0.0.1:1, [::1]:2",
            "TILLIE_LISTEN_TLS": "127.0.0.1:3 127.0.0.1:4",
            "TILLIE_STATE": str(tmp_path),
            "TILLIE_RESOLVER": "127.0.0.1:5353",
            "TILLIE_SERVER": "a.example=127.0.0.1:5,b.example=[::1]:6",
            "TILLIE_TLS": "a.example=off b.example=direct",
            "TILLIE_LOG_LEVEL": "warning",
            "TILLIE_LOG_JSON": "yes",
            "TILLIE_CLEAR": "*@a.example *@b.example",
            "TILLIE_REQUIRE": "*",
            "TILLIE_UNKNOWN": "require",
            "TILLIE_FALLBACK": "0",
            "TILLIE_CA": "",
        },
    )
    assert config.listen == (Address("127.0.0.1", 1), Address("::1", 2))
    assert config.listen_tls == (Address("127.0.0.1", 3), Address("127.0.0.1", 4))
    assert config.state == tmp_path
    assert config.resolver == Address("127.0.0.1", 5353)
    assert config.servers["b.example"] == Address("::1", 6)
    assert config.tls == {"a.example": "off", "b.example": "direct"}
    assert (config.log_level, config.log_json) == ("warning", True)
    assert config.clear == ("*@a.example", "*@b.example")
    assert (config.require, config.unknown, config.fallback) == (
        ("*",),
        "require",
        False,
    )
    assert config.ca is None


def test_option_before_variable_before_file_before_default(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        'state = "f"\nlog-level = "error"\nresolver = "127.0.0.1:9"\n'
        '[servers."a.example"]\nserver = "f:1"\ntls = "direct"\n'
        '[servers."b.example"]\nserver = "f:2"\n'
    )
    config = load(
        {"state": str(tmp_path / "o"), "server": ("a.example=o:3",), "tls": ()},
        {
            "TILLIE_CONFIG": str(path),
            "TILLIE_STATE": "/v",
            "TILLIE_LOG_LEVEL": "debug",
            "TILLIE_SERVER": "a.example=v:4 c.example=v:5",
        },
    )
    assert config.state == tmp_path / "o"
    assert config.log_level == "debug"
    assert config.resolver == Address("127.0.0.1", 9)
    assert config.servers == {
        "a.example": Address("o", 3),
        "b.example": Address("f", 2),
        "c.example": Address("v", 5),
    }
    assert config.tls == {"a.example": "direct"}


def test_listeners_keep_the_order_of_the_command_line() -> None:
    config = load(
        {
            "state": "/s",
            "listen": ("127.0.0.1:0", "127.0.0.1:0"),
            "listen_tls": ("127.0.0.1:7",),
            "listen_order": ["listen", "state", "listen_tls", "listen"],
        },
        {},
    )
    assert config.listeners == (
        Listener(Address("127.0.0.1", 0), "starttls"),
        Listener(Address("127.0.0.1", 7), "tls"),
        Listener(Address("127.0.0.1", 0), "starttls"),
    )


def test_loc_15_only_what_is_asked_for_is_listened_on() -> None:
    config = load({"state": "/s", "listen_tls": ("127.0.0.1:0",)}, {})
    assert config.listen == ()


def test_what_was_read_cannot_be_changed() -> None:
    config = load({"state": "/s"}, {})
    with pytest.raises(TypeError):
        config.servers["a"] = Address("b", 1)  # type: ignore[index]


def test_again_reads_the_file_anew(tmp_path: Path) -> None:
    config = of_file(tmp_path, 'clear = ["a@b"]', state="/s")
    (tmp_path / "tillie.toml").write_text('clear = ["c@d"]')
    assert config.again().clear == ("c@d",)
    assert config.again().state == Path("/s")
    (tmp_path / "tillie.toml").write_text("clear = [")
    with pytest.raises(ConfigFault):
        config.again()


@pytest.mark.parametrize(
    ("options", "text", "hint"),
    [
        ({"listen": ("foo",)}, '--listen: "foo" is not of the form', "127.0.0.1:5222"),
        ({"listen": ("127.0.0.1",)}, "not of the form", "127.0.0.1:5222"),
        ({"listen": (":5222",)}, "not of the form", ""),
        ({"listen": ("::1:5222",)}, "not of the form", "[::1]:5222"),
        ({"listen": ("[127.0.0.1]:5",)}, "not of the form", ""),
        ({"listen": ("[::g]:5",)}, "not of the form", ""),
        ({"listen": ("127.0.0.1:65536",)}, "not in 0..65535", ""),
        ({"listen": ("127.0.0.1:+80",)}, "not of the form", ""),
        ({"listen": ("127.0.0.1:٨٠",)}, "not of the form", ""),
        ({"listen": ("example.org:5222",)}, "is a name", "127.0.0.1:5222"),
        ({"listen": ("*:5222",)}, "is a name", ""),
        ({"resolver": "127.0.0.1:0"}, "not in 1..65535", ""),
        ({"resolver": "dns.example:53"}, "is a name", ""),
        ({"server": ("example.org",)}, "DOMAIN=HOST:PORT", ""),
        ({"server": ("=h:1",)}, "is not a domain", ""),
        ({"server": ("a@b=h:1",)}, "is not a domain", ""),
        ({"server": ("a=h:0",)}, "not in 1..65535", ""),
        ({"server": ("a=h\x1b:1",)}, "not of the form", ""),
        ({"server": ("a=h:1", "A.=h:2")}, "a is there twice", ""),
        ({"tls": ("a=maybe",)}, '"maybe" is none of: starttls, direct, off', ""),
        ({"tls": ("off",)}, "DOMAIN=starttls|direct|off", ""),
        ({"log_level": "loud"}, '"loud" is none of: debug', ""),
        ({"state": "a\0b"}, "zero byte", ""),
        ({"state": ""}, "--state: this is empty", ""),
    ],
)
def test_a_wrong_form_is_wrong_usage(
    options: dict[str, object], text: str, hint: str
) -> None:
    with pytest.raises(UsageFault) as caught:
        load({"state": "/s", **options}, {})
    assert text in caught.value.text
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("options", "text", "hint"),
    [
        pytest.param(
            {"listen": (address,)}, "reached from other machines", "beyond", id=name
        )
        for name, address in [
            ("LOC-16 all", "0.0.0.0:5222"),
            ("LOC-16 all of IPv6", "[::]:5222"),
            ("LOC-16 lan", "192.168.1.2:5222"),
            ("LOC-16 mapped", "[::ffff:192.0.2.1]:5222"),
        ]
    ]
    + [
        pytest.param(
            {"listen_tls": ("0.0.0.0:5223",)}, "--listen-tls", "beyond", id="LOC-16 tls"
        ),
        pytest.param(
            {"tls": ("a=off",)}, "TLS cannot be off for a", "", id="LOC-16 off, by DNS"
        ),
        pytest.param(
            {"tls": ("a=off",), "server": ("a=192.0.2.1:5222",)},
            "TLS cannot be off",
            "--server a=127.0.0.1:5222",
            id="LOC-16 off, remote",
        ),
        pytest.param(
            {"tls": ("a=off",), "server": ("a=loopback.example:5222",)},
            "TLS cannot be off",
            "",
            id="LOC-16 off, a name may lead anywhere",
        ),
        pytest.param(
            {"listen": ("127.0.0.1:7", "127.0.0.1:7")}, "twice", "", id="same twice"
        ),
        pytest.param(
            {"listen": ("127.0.0.1:7",), "listen_tls": ("127.0.0.1:7",)},
            "twice",
            "",
            id="same port for both",
        ),
        pytest.param({"config": "/no/such"}, "does not exist", "--config", id="config"),
        pytest.param({"config": "/dev/zero"}, "is no file", "", id="endless config"),
        pytest.param({"ca": "/no/such"}, "/no/such does not exist", "", id="ca"),
    ],
)
def test_a_wish_that_is_refused(
    options: dict[str, object], text: str, hint: str
) -> None:
    with pytest.raises(ConfigFault) as caught:
        load({"state": "/s", **options}, {})
    assert not isinstance(caught.value, UsageFault)
    assert text in caught.value.text
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("listn = 1", "listn is not a setting", "did you mean listen?"),
        ("require = []", "require is not a setting", "did you mean policy.require?"),
        ("tls = 1", "tls is not", 'did you mean servers."example.org".tls?'),
        ("[policy]\nclear = []", "policy.clear is not", "did you mean clear?"),
        ("[policy]\nunkown = 1", "policy.unkown", "did you mean policy.unknown?"),
        (
            '[servers."a.b"]\nsrver = ""',
            'servers."a.b".srver is not a setting',
            'did you mean servers."a.b".server?',
        ),
        ("[zzzzqqq]", "zzzzqqq is not a setting", "known here: listen, "),
        ("log-json = true\nlog_json = true", "log-json is there twice", ""),
        ("listen = 5222", "listen: a list of texts", ""),
        ("listen = [5222]", "listen: text in quotes", ""),
        ('listen = "x"', "not of the form", "127.0.0.1:5222"),
        ('listen = "0.0.0.0:5222"', "reached from other machines", "say so with"),
        ('log-json = "true"', "true or false", ""),
        ("fallback = 0", "true or false", ""),
        ("state = true", "state: text in quotes", ""),
        ('state = ""', "state: this is empty", ""),
        ("policy = 1", "policy is a table", "[policy]"),
        ("servers = []", "servers is a table", "[servers]"),
        ('servers."a" = "h:1"', 'servers."a" is a table', ""),
        ('[servers."a"]\nserver = 1', 'servers."a".server: text in quotes', ""),
        ('[servers."a"]\ntls = "off"', "TLS cannot be off for a", ""),
        ('[servers."a b"]\nserver = "h:1"', '"a b" is not a domain', ""),
        ('[policy]\nunknown = "clear"', "none of: ask, require", ""),
        ('clear = ["bob@b/desk"]', "not a pattern", "*@bots.example"),
        ('clear = [""]', "this is empty", ""),
        ('ca = "tillie.toml"', "there is no certificate in", "PEM"),
        ('ca = "."', "is no file", ""),
        ("listen = 127.0.0.1:5222", "is not TOML", "quotes"),
        ("\n\nlisten = ?", "at line 3, column 10", ""),
        ("x = " + "[" * 100_000, "is not TOML", ""),
    ],
    ids=lambda one: one[:30] if isinstance(one, str) else None,
)
def test_a_bad_file_is_one_clear_line(
    tmp_path: Path, text: str, said: str, hint: str
) -> None:
    with pytest.raises(ConfigFault) as caught:
        of_file(tmp_path, text)
    fault = caught.value
    assert not isinstance(fault, UsageFault)
    assert said in fault.text
    assert hint in fault.hint
    assert "tillie.toml" in fault.text
    assert len(escaped(fault.text).splitlines()) == 1


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_bytes(b"state = '\xff'")
    with pytest.raises(ConfigFault, match="is not TOML"):
        load({"config": str(path)}, {})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("TILLIE_LISTEN", "5222", "TILLIE_LISTEN:"),
        ("TILLIE_LOG_JSON", "perhaps", "TILLIE_LOG_JSON: true or false"),
        ("TILLIE_FALLBACK", "2", "TILLIE_FALLBACK: true or false"),
        ("TILLIE_CONFIG", "/no/such", "/no/such does not exist"),
    ],
)
def test_a_bad_variable_is_bad_configuration(name: str, value: str, text: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load({"state": "/s"}, {name: value})
    assert not isinstance(caught.value, UsageFault)
    assert text in caught.value.text


def test_loc_16_a_public_listener_warns_at_each_start() -> None:
    config = load({"state": "/s", "listen": ("0.0.0.0:0",), PUBLIC: True}, {})
    assert config.listen == (Address("0.0.0.0", 0),)
    assert "0.0.0.0:0 (starttls)" in config.warnings[0]
    assert config.again().warnings == config.warnings


def test_loc_13_a_file_that_everyone_can_change_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tillie.toml"
    path.touch()
    path.chmod(0o646)
    assert str(path) in load({"config": path, "state": "/s"}, {}).warnings[0]


def test_a_slip_in_a_variable_is_named_but_a_platforms_own_is_not() -> None:
    config = load(
        {"state": "/s"},
        {
            "TILLIE_REQIURE": "*",
            "TILLIE_SERVICE_HOST": "10.0.0.1",
            "TILLIE_PORT": "tcp://10.0.0.1:5222",
            "TILLIE_ACCOUNT": "a@b",
        },
    )
    assert config.warnings == (
        "TILLIE_REQIURE is not a setting; did you mean TILLIE_REQUIRE?",
    )


def test_no_home_folder_is_needed_where_state_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_state_path", lambda _: Path("~/x"))
    assert load({"state": "/s"}, {}).state == Path("/s")
    with pytest.raises(ConfigFault, match="no home folder"):
        load({}, {})


def test_the_state_folder_is_found_without_judging_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('state = "kept"\nlisten = "0.0.0.0:1"')
    assert state_folder({"state": None}, {"TILLIE_CONFIG": str(path)}) == (
        tmp_path / "kept"
    )
    environ = {"TILLIE_CONFIG": str(path), "TILLIE_STATE": "/v"}
    assert state_folder({}, environ) == Path("/v")
    assert state_folder({"state": "/o"}, environ) == Path("/o")


@pytest.mark.parametrize("text", ["127.0.0.1:5222", "[::1]:5222", "a.example:1"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    config = load({"state": "/s", "server": (f"d={text}",)}, {})
    assert str(config.servers["d"]) == text
