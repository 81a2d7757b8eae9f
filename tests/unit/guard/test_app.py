"""The extension's configuration: traits, defaults, and what is wrong in it."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import fields
from typing import Any

import pytest
from jupyter_server.serverapp import ServerApp
from traitlets import TraitError

import jupyter_token_ws
from jupyter_token_ws.app import TokenWebSocketApp
from jupyter_token_ws.guard.core import SETTING, GuardOptions
from jupyter_token_ws.guard.router import GuardRouter
from jupyter_token_ws.protocol.subprotocols import MARKER, REASON_MARKER
from tests.support.door import EVENTS, Door
from tests.support.knock import bearing

OPTIONS = {field.name for field in fields(GuardOptions)}
BRIDGE_OPTIONS = {
    "bridge",
    "backlog_memory",
    "backlog_disk",
    "backlog_disk_total",
    "backlog_directory",
    "backlog_overflow",
    "backlog_age",
}
LOGIN_OPTIONS = {
    "login",
    "ticket_store",
    "server_directory",
    "link_ticket",
    "link_age",
    "revalidate_interval",
    "revalidate_grace",
}
TUNNEL_OPTIONS = {
    "tunnel",
    "tunnel_resume_window",
    "tunnel_idle_timeout",
    "tunnel_max_streams",
    "max_tunnels_per_principal",
    "tunnel_max_post_size",
    "tunnel_stream_window",
    "tunnel_window",
    "tunnel_replay",
}


def test_the_extension_point():
    [point] = jupyter_token_ws._jupyter_server_extension_points()
    assert point == {"module": "jupyter_token_ws", "app": TokenWebSocketApp}
    assert TokenWebSocketApp.name == "jupyter_token_ws"


def own_traits() -> dict[str, Any]:
    return {
        name: trait
        for name, trait in TokenWebSocketApp.class_own_traits(config=True).items()
        if trait.this_class is TokenWebSocketApp
    }


def test_every_option_is_a_trait_and_explained():
    traits = own_traits()
    assert set(traits) == OPTIONS | BRIDGE_OPTIONS | LOGIN_OPTIONS | TUNNEL_OPTIONS
    for name, trait in traits.items():
        assert len(trait.help) > 30, name
        if type(trait).__name__ == "Float":
            assert "econd" in trait.help, f"{name} tells no unit"


def test_defaults_are_written_once():
    app = TokenWebSocketApp()
    app.serverapp = ServerApp()
    assert {name: getattr(app, name) for name in OPTIONS} == {
        **{name: getattr(GuardOptions(), name) for name in OPTIONS},
        "exclude_paths": [],
        "open_timeouts": {},
        "trusted_proxies": [],
    }


@pytest.mark.parametrize(
    ("server", "own", "expected"),
    [
        ({}, {}, (25, 75)),
        ({"websocket_ping_interval": 10}, {}, (10, 30)),
        ({"websocket_ping_interval": 10, "websocket_ping_timeout": 7}, {}, (10, 7)),
        ({"websocket_ping_timeout": 20}, {}, (25, 20)),
        ({}, {"keepalive_interval": 5}, (5, 15)),
        ({}, {"keepalive_timeout": 5}, (25, 5)),
        ({"websocket_ping_interval": 10}, {"keepalive_interval": 5}, (5, 15)),
        (
            {"websocket_ping_interval": 10, "websocket_ping_timeout": 7},
            {"keepalive_interval": 5, "keepalive_timeout": 9},
            (5, 9),
        ),
        ({"websocket_ping_interval": 10}, {"keepalive_interval": 0}, (0, 0)),
        ({"websocket_ping_interval": 10}, {"keepalive_timeout": 0}, (10, 0)),
    ],
)
def test_the_servers_own_ping_settings_are_the_defaults(server, own, expected):
    app = TokenWebSocketApp(**own)
    app.serverapp = ServerApp(**server)
    assert (app.keepalive_interval, app.keepalive_timeout) == expected


@pytest.mark.parametrize(
    "token_ws_config",
    [
        {
            "close_reasons": "explicit",
            "allow_token_in_url": False,
            "max_token_size": 100,
            "keepalive_interval": 7,
            "keepalive_timeout": 21,
            "open_timeout": 3,
            "open_timeouts": {"api/kernels/": 9},
            "exclude_paths": ["proxy/"],
            "max_refusals_open": 11,
            "refusal_burst": 12,
            "refusal_window": 13,
            "refusal_linger": 0.5,
            "max_refusal_events": 14,
            "drain_timeout": 0.25,
            "attempt_burst": 14,
            "attempt_window": 15,
            "wrong_token_memory": 16,
            "password_wait": 16.5,
            "max_connections": 17,
            "max_connections_per_principal": 18,
            "max_handshakes": 19,
            "trusted_proxies": ["10.0.0.0/8", "unix"],
            "proxy_address_header": "X-Real-Ip",
            "proxy_protocol_header": "X-Scheme",
            "require_tls": True,
        }
    ],
)
def test_what_is_configured_reaches_the_guard(guard, token_ws_config):
    expected = {
        "enabled": True,
        **token_ws_config,
        "exclude_paths": ("proxy/",),
        "trusted_proxies": ("10.0.0.0/8", "unix"),
    }
    assert {name: getattr(guard.options, name) for name in OPTIONS} == expected
    assert guard.refusals.max_open == 11
    assert (guard.refusals.burst, guard.refusals.window) == (12, 13)
    assert (guard.keepalive.interval, guard.keepalive.timeout) == (7, 21)
    table = guard.throttle.store.table
    assert (table.burst, table.window, guard.throttle.remembered.seconds) == (14, 15, 16)
    assert guard.proxies.unix
    assert guard.proxies.trusts(ipaddress.ip_address("10.1.2.3"))
    assert (guard.proxies.address_header, guard.proxies.protocol_header) == (
        "X-Real-Ip",
        "X-Scheme",
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("max_token_size", -1, "negative"),
        ("keepalive_interval", -1.0, "negative"),
        ("keepalive_timeout", -0.1, "negative"),
        ("open_timeout", -1.0, "negative"),
        ("max_refusals_open", -1, "negative"),
        ("refusal_burst", -1, "negative"),
        ("refusal_window", -1.0, "negative"),
        ("refusal_linger", -1.0, "negative"),
        ("drain_timeout", -1.0, "negative"),
        ("attempt_burst", -1, "negative"),
        ("attempt_window", -1.0, "negative"),
        ("wrong_token_memory", float("nan"), "finite"),
        ("revalidate_interval", float("nan"), "finite"),
        ("revalidate_grace", -1.0, "negative"),
        ("max_connections", -1, "negative"),
        ("max_connections_per_principal", -1, "negative"),
        ("max_handshakes", -1, "negative"),
        ("trusted_proxies", ["10.0.0.0/8", "my-proxy"], "my-proxy"),
        ("trusted_proxies", ["10.0.0.1/8"], "host bits"),
        ("proxy_address_header", "", "header"),
        ("proxy_address_header", "X-Forwarded-For: me", "header"),
        ("proxy_protocol_header", "X Scheme", "header"),
        ("keepalive_interval", float("nan"), "finite"),
        ("open_timeout", float("inf"), "finite"),
        ("open_timeouts", {"api/": -1.0}, "negative"),
        ("open_timeouts", {"api/": float("nan")}, "finite"),
        ("open_timeouts", {"(": 1.0}, "unterminated"),
        ("exclude_paths", ["good", "("], "unterminated"),
        ("exclude_paths", 5, "expected"),
        ("close_reasons", "sometimes", "sometimes"),
        ("enabled", "perhaps", "boolean"),
        ("keepalive_interval", "soon", "float"),
        ("backlog_memory", -1, "negative"),
        ("backlog_disk", -1, "negative"),
        ("backlog_disk_total", -1, "negative"),
        ("backlog_age", float("inf"), "finite"),
        ("backlog_memory", "16 MiB", "int"),
        ("backlog_overflow", "drop", "drop"),
        ("backlog_directory", "/nowhere/at/all", "can be written"),
    ],
)
def test_what_is_wrong_is_named(name, value, says):
    with pytest.raises(TraitError, match=says) as error:
        TokenWebSocketApp(**{name: value})
    assert name in str(error.value)


@pytest.mark.parametrize(
    ("section", "wrong", "chosen"),
    [
        ("TokenWebSocketApp", {"close_reasons": "sometimes"}, {}),
        ("ZMQChannelsWebsocketConnection", {"iopub_msg_rate_limit": -1}, {}),
        ("KernelBridgeConnection", {"rate_limit_window": 0}, {}),
        ("MemoryTicketStore", {"max_tickets": -1}, {}),
        ("TicketStore", {"max_age": float("nan")}, {}),
        ("RedisTicketStore", {"ping_interval": float("nan")}, {"ticket_store": "redis"}),
        ("ServerDirectory", {"timeout": float("nan")}, {"server_directory": "hub"}),
        ("ServerDirectory", {"memory": float("inf")}, {"server_directory": "hub"}),
        ("StaticServerDirectory", {"servers": {"ann": "here"}}, {"server_directory": "static"}),
        ("HubServerDirectory", {"hub_api_url": "hub"}, {"server_directory": "hub"}),
    ],
)
async def test_an_error_in_the_configuration_ends_the_server(
    section, wrong, chosen, jp_configurable_serverapp, capfd
):
    """Else the server would run with everything of ours at its default, this here included."""
    config: dict[str, dict[str, object]] = {
        "ServerApp": {"jpserver_extensions": {"jupyter_token_ws": True}},
        "TokenWebSocketApp": {"allow_token_in_url": False, **chosen},
    }
    config.setdefault(section, {}).update(wrong)
    with pytest.raises(SystemExit) as end:
        jp_configurable_serverapp(config=config)
    assert end.value.code == 1
    said = [line for line in capfd.readouterr().err.splitlines() if "Bad config" in line]
    assert len(said) == 1
    assert next(iter(wrong)) in said[0]


@pytest.mark.parametrize("token_ws_config", [{"enabled": False}])
async def test_switched_off_tokens_are_still_taken_out(door: Door, caplog):
    """C1.2: no handler and no log sees one, whoever would have judged it."""
    caplog.set_level(logging.DEBUG)
    answer = await door.fetch("api/token-ws/capabilities")
    assert answer.status == 404
    socket = await door.refused(EVENTS, [MARKER, bearing(door.token), REASON_MARKER])
    assert socket.status == 403, "the token is not looked at"
    token = {"Authorization": f"token {door.token}"}
    async with await door.knock(EVENTS, [MARKER, bearing("canary-1")], token) as other:
        assert other.status == 101
        assert len(door.guard.registry) == 0
    assert "canary-1" not in caplog.text
    [app] = door.app.extension_manager.extension_apps["jupyter_token_ws"]
    await app._start_jupyter_server_extension(door.app)
    assert "page_config_hook" not in door.app.web_app.settings


@pytest.mark.parametrize("token_ws_config", [{"exclude_paths": ["api/events/"]}])
async def test_an_excluded_path_is_stock_but_for_the_token(door: Door, caplog):
    caplog.set_level(logging.DEBUG)
    socket = await door.refused(EVENTS, [MARKER, bearing("canary-2")])
    assert socket.status == 403
    missing = await door.refused("api/kernels/x/channels", [MARKER, bearing(door.token)])
    assert (missing.code, missing.slug) == (4404, "not_found")
    assert "canary-2" not in caplog.text


def test_the_rule_is_first_and_there_once(jp_serverapp, guard):
    rules = jp_serverapp.web_app.default_router.rules
    assert isinstance(rules[0].target, GuardRouter)
    assert sum(isinstance(rule.target, GuardRouter) for rule in rules) == 1
    [app] = jp_serverapp.extension_manager.extension_apps["jupyter_token_ws"]
    app.initialize_handlers()
    assert sum(isinstance(rule.target, GuardRouter) for rule in rules) == 1
    assert jp_serverapp.web_app.settings[SETTING] is guard is app.guard


async def test_C1_2_other_extensions_loggers_are_scrubbed_too(jp_serverapp, guard):
    """Each extension application has its own, with its own handler: so has what came after us."""
    logger = logging.getLogger("SomeExtensionApp")
    logger.propagate = False
    heard: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    handler = Handler()
    logger.addHandler(handler)
    try:
        [app] = jp_serverapp.extension_manager.extension_apps["jupyter_token_ws"]
        await app._start_jupyter_server_extension(jp_serverapp)
        logger.warning("403 GET /x?next=%%2Flab%%3Ftoken%%3D%s (127.0.0.1)", "canary-3")
    finally:
        logger.removeHandler(handler)
    assert len(heard) == 1
    assert "canary-3" not in heard[0]


async def test_the_end_of_the_extension_drains(door: Door):
    [app] = door.app.extension_manager.extension_apps["jupyter_token_ws"]
    async with await door.knock(EVENTS, [MARKER, bearing(door.token)]) as socket:
        stopping = app.stop_extension()
        socket_closed = socket.wait_closed()
        await stopping
        await socket_closed
        assert (socket.code, socket.slug) == (4503, "draining")
    assert door.guard.draining


async def test_an_extension_that_never_loaded_ends_without_a_word():
    """A server whose other parts failed early stops its extensions all the same."""
    await TokenWebSocketApp().stop_extension()
