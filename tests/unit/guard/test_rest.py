"""The capabilities, and how our REST paths answer (contract sections 4 and 5)."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import jsonschema
import pytest
from tornado import web

from jupyter_token_ws import Refused
from jupyter_token_ws.guard import rest
from jupyter_token_ws.protocol.capabilities import CLOSE_REASONS, capabilities_schema
from jupyter_token_ws.protocol.reasons import REASONS
from jupyter_token_ws.protocol.subprotocols import KERNEL, MARKER, REASON_MARKER, TUNNEL
from tests.support.door import EVENTS, Answer, Door, Socket

CAPABILITIES = "api/token-ws/capabilities"
SCHEMA = "api/token-ws/capabilities.schema.json"
FRIEND = "https://friend.example"
EVIL = "https://evil.example"
ANSWER_HEADERS = {"api-version", "supported-api-versions", "etag", "link", "retry-after"}


async def document(door: Door, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = await door.fetch(CAPABILITIES, headers)
    assert answer.status == 200
    found: dict[str, Any] = json.loads(answer.body)
    jsonschema.validate(found, capabilities_schema())
    return found


def names(value: str) -> set[str]:
    return {name.strip().lower() for name in value.split(",")}


def reconfigure(door: Door, **traits: object) -> None:
    door.app.web_app.settings.update(traits)


# -- C4.1: open to all -----------------------------------------------------------------------------


async def test_C4_1_open_to_all(door):
    for allowed in [True, False]:
        for path in [CAPABILITIES, SCHEMA]:
            reconfigure(door, allow_unauthenticated_access=allowed)
            for headers in (
                {},
                {"Authorization": "token wrong"},
                {"Authorization": f"token {door.token}"},
                {"Origin": EVIL},
                {"Cookie": "username=nonsense"},
            ):
                for method in ("GET", "HEAD", "OPTIONS"):
                    answer = await door.fetch(path, headers, method=method)
                    assert answer.status == (204 if method == "OPTIONS" else 200), (headers, method)
                    assert answer.headers["api-version"] == "1.0"
                    if method != "GET":
                        assert answer.body == b""


async def test_C4_1_the_same_for_everybody(door):
    one = await door.fetch(CAPABILITIES)
    two = await door.fetch(CAPABILITIES, {"Cookie": await door.login_cookie()})
    assert one.body == two.body
    assert one.headers["etag"] == two.headers["etag"]


async def test_C4_1_caching(door):
    for path in [CAPABILITIES, SCHEMA]:
        answer = await door.fetch(path)
        assert answer.headers["cache-control"] == "private, max-age=300"
        assert names(answer.headers["vary"]) == {"host", "origin"}
        assert answer.headers["content-type"].startswith("application/")
        etag = answer.headers["etag"]
        assert etag
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await door.fetch(path, {"If-None-Match": known})
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == etag
            assert again.headers["cache-control"] == "private, max-age=300"
            assert names(again.headers["vary"]) == {"host", "origin"}
            assert again.headers["api-version"] == "1.0"
        assert (await door.fetch(path, {"If-None-Match": '"other"'})).status == 200
        head = await door.fetch(path, method="HEAD")
        assert head.headers["etag"] == etag


async def test_C4_1_the_etag_changes_with_the_host_and_with_the_document(door):
    one = await door.fetch(CAPABILITIES)
    other = await door.fetch(CAPABILITIES, {"Host": f"localhost:{door.port}"})
    assert one.headers["etag"] != other.headers["etag"]
    door.add("late", Socket)
    late = await door.fetch(CAPABILITIES, {"If-None-Match": one.headers["etag"]})
    assert late.status == 200


# -- C4.2: other origins ---------------------------------------------------------------------------


def cors(answer: Answer) -> tuple[str | None, str | None]:
    return (
        answer.headers.get("access-control-allow-origin"),
        answer.headers.get("access-control-allow-credentials"),
    )


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", [CAPABILITIES, SCHEMA])
async def test_C4_2_cors_is_the_servers_own(door, path, method):
    async def allowed(origin: str, **headers: str) -> tuple[str | None, str | None]:
        return cors(await door.fetch(path, {"Origin": origin, **headers}, method=method))

    assert await allowed(FRIEND) == (None, None)
    reconfigure(door, allow_origin=FRIEND)
    assert await allowed(FRIEND) == (FRIEND, None)
    assert await allowed(EVIL) == (FRIEND, None)  # upstream's way: the browser compares
    reconfigure(door, allow_origin="*", allow_credentials=True)
    assert await allowed(EVIL) == ("*", "true")
    reconfigure(
        door, allow_origin="", allow_origin_pat=r"https://friend\..*", allow_credentials=False
    )
    assert await allowed(FRIEND) == (FRIEND, None)
    assert await allowed(EVIL) == (None, None)


async def test_C4_2_headers_allowed_and_exposed(door):
    for path in [CAPABILITIES, SCHEMA]:
        preflight = await door.fetch(
            path,
            {
                "Origin": FRIEND,
                "Access-Control-Request-Method": "GET",
                "Access-Control-Request-Headers": "api-version",
            },
            method="OPTIONS",
        )
        assert {"api-version", "authorization"} <= names(
            preflight.headers["access-control-allow-headers"]
        )
        assert names(preflight.headers["access-control-allow-methods"]) == {
            "get",
            "head",
            "options",
        }
        answer = await door.fetch(path, {"Origin": FRIEND})
        assert names(answer.headers["access-control-expose-headers"]) == ANSWER_HEADERS


async def test_C4_2_what_the_user_configured_stays(door):
    reconfigure(
        door,
        headers={
            "Access-Control-Allow-Headers": "x-own",
            "Access-Control-Expose-Headers": "x-shown",
            "Content-Security-Policy": "frame-ancestors 'none'",
        },
    )
    answer = await door.fetch(CAPABILITIES, method="OPTIONS")
    assert answer.headers["access-control-allow-headers"] == "x-own, api-version"
    assert names(answer.headers["access-control-expose-headers"]) == {"x-shown", *ANSWER_HEADERS}
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_C4_2_an_unknown_version_can_be_read_across_origins(door):
    reconfigure(door, allow_origin=FRIEND)
    answer = await door.fetch(CAPABILITIES, {"Origin": FRIEND, "Api-Version": "9.0"})
    assert answer.status == 422
    assert cors(answer) == (FRIEND, None)


# -- C4.3: OPTIONS on a websocket's path -------------------------------------------------------------

NOBODY = "api/kernels/00000000-0000-0000-0000-000000000000/channels"


async def test_C4_3_options_on_a_websockets_path(door):
    for path in [EVENTS, NOBODY, "terminals/websocket/1", "late/x"]:
        door.add("late/(.*)", Socket)
        for headers in ({}, {"Origin": EVIL}, {"Sec-WebSocket-Protocol": f"{MARKER}.canary"}):
            answer = await door.fetch(path, headers, method="OPTIONS")
            assert (answer.status, answer.body) == (204, b"")
            assert names(answer.headers["allow"]) == {"get", "options"}
            link = f'<{door.base}{CAPABILITIES}>; rel="service-desc"'
            assert answer.headers["link"] == link
            assert answer.headers["api-version"] == "1.0"


async def test_C4_3_unless_the_handler_has_its_own(door):
    class Own(Socket):
        def options(self):
            self.finish("its own")

    door.add("own", Own)
    answer = await door.fetch("own", method="OPTIONS")
    assert (answer.status, answer.body) == (200, b"its own")
    assert "link" not in answer.headers


async def test_C4_3_other_paths_answer_options_as_ever(door):
    for path in ("api/contents", "api/kernels"):
        answer = await door.fetch(path, method="OPTIONS")
        assert "link" not in answer.headers
        assert "api-version" not in answer.headers


@pytest.mark.parametrize("token_ws_config", [{"exclude_paths": ["api/events"]}])
async def test_C4_3_not_where_the_guard_does_not_stand(door):
    answer = await door.fetch(EVENTS, method="OPTIONS")
    assert answer.status == 405
    assert (await door.fetch("terminals/websocket/1", method="OPTIONS")).status == 204


# -- C4.4: pages -----------------------------------------------------------------------------------


class Page:
    """Asks for the page config as JupyterLab and Notebook do."""

    def __init__(self, door: Door) -> None:
        self.door = door
        door.add("page", self._handler())

    def _handler(self) -> Any:
        class PageHandler(web.RequestHandler):
            def get(self) -> None:
                config: dict[str, Any] = {"theirs": 1}
                hook = self.settings.get("page_config_hook")
                self.finish(hook(self, config) if hook else config)

        return PageHandler

    async def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.door.fetch("page")).body)
        return found


async def test_C4_4_pages_carry_the_document(door):
    config = await Page(door).config()
    assert config["theirs"] == 1
    assert config["tokenWebSocket"] == await document(door)


async def test_C4_4_a_hook_of_others_is_asked_too(door):
    def theirs(handler, config):
        assert "tokenWebSocket" in config
        return {**config, "added": True, "path": handler.request.path}

    settings = door.app.web_app.settings
    settings["page_config_hook"] = theirs  # set by an extension that came later
    rest.add_to_pages(settings)
    rest.add_to_pages(settings)
    config = await Page(door).config()
    assert config["added"] is True
    assert config["path"].startswith(door.base)
    assert config["theirs"] == 1
    assert config["tokenWebSocket"] == await document(door)


@pytest.mark.parametrize("token_ws_config", [{"enabled": False}])
async def test_C4_4_C4_6_nothing_where_the_guard_is_off(door):
    assert await Page(door).config() == {"theirs": 1}
    for path in (CAPABILITIES, SCHEMA):
        assert (await door.fetch(path)).status == 404
    assert (await door.fetch(EVENTS, method="OPTIONS")).status == 405


# -- C4.6: the document ----------------------------------------------------------------------------


async def test_C4_6_the_document(door):
    found = await document(door)
    base = f"http://{door.host}{door.base}"
    assert found["api_versions"] == ["1.0"]
    assert found["base_url"] == base
    assert found["ws_url"] == base.replace("http", "ws", 1)
    assert found["token"] == {"subprotocol": MARKER, "in_url": True, "max_size": 4096}
    assert found["reasons"]["subprotocol"] == REASON_MARKER
    assert found["reasons"]["mode"] == "offered"
    assert found["kernel"] == {"subprotocols": [KERNEL, ""]}
    assert found["transports"] == ["websocket", "tunnel-websocket", "tunnel-eventstream"]
    assert found["keepalive"] == {"interval": 25, "timeout": 75}
    assert set(found["sockets"]) >= {
        "api/kernels/{id}/channels",
        "terminals/websocket/{name}",
        "api/events/subscribe",
    }
    assert found["login"]["path"] == "api/token-ws/login"
    assert found["tunnel"] == {
        "subprotocol": TUNNEL,
        "path": "api/token-ws/tunnel",
        "resume_window": 60,
        "max_streams": 256,
    }


async def test_C4_6_the_codes_are_the_tables(door):
    codes = (await document(door))["reasons"]["codes"]
    told = {slug: int(code) for code, slugs in codes.items() for slug in slugs}
    assert told.items() <= {slug: reason.code for slug, reason in REASONS.items()}.items()
    assert "origin_refused" not in told
    assert codes["4401"]["credentials_missing"] == "authenticate"
    assert codes["4403"] == {
        "token_rejected": "authenticate",
        "forbidden": "stop",
        "wrong_audience": "stop",
    }
    assert "out_of_order" not in told  # no socket is closed with it
    assert told["resume_failed"] == 4410
    assert told["backlog_full"] == 4507


@pytest.mark.parametrize("token_ws_config", [{"bridge": False}])
async def test_C4_6_what_the_bridge_says_is_not_told_without_it(door):
    assert "4507" not in (await document(door))["reasons"]["codes"]


@pytest.mark.parametrize("token_ws_config", [{"tunnel": False}])
async def test_C4_6_what_tunnels_say_is_not_told_without_them(door):
    found = await document(door)
    assert found["transports"] == ["websocket"]
    assert "resume_failed" not in found["reasons"]["codes"]["4410"]
    assert (await door.fetch("api/token-ws/tunnel")).status == 404


@pytest.mark.parametrize(
    ("token_ws_config", "absent"),
    [
        ({"close_reasons": "never"}, "reasons"),
        ({"keepalive_interval": 0}, "keepalive"),
        ({"tunnel": False}, "tunnel"),
    ],
)
async def test_C4_6_what_is_off_is_absent(door, absent):
    assert absent not in await document(door)


@pytest.mark.parametrize("token_ws_config", [{"close_reasons": mode} for mode in CLOSE_REASONS[:3]])
async def test_C4_6_the_mode(door, token_ws_config):
    assert (await document(door))["reasons"]["mode"] == token_ws_config["close_reasons"]


@pytest.mark.parametrize(
    "token_ws_config",
    [
        {
            "allow_token_in_url": False,
            "max_token_size": 100,
            "keepalive_interval": 7.5,
            "keepalive_timeout": 11,
        }
    ],
)
async def test_C4_6_settings_show(door):
    found = await document(door)
    assert found["token"]["in_url"] is False
    assert found["token"]["max_size"] == 100
    assert found["keepalive"] == {"interval": 7.5, "timeout": 11}


@pytest.mark.parametrize("token_ws_config", [{"exclude_paths": ["api/events", r"terminals/.*"]}])
async def test_C4_6_sockets_that_take_no_token_are_not_named(door):
    sockets = (await document(door))["sockets"]
    assert "api/kernels/{id}/channels" in sockets
    assert not [name for name in sockets if name.startswith(("api/events", "terminals"))]


async def test_C4_6_sockets_registered_later_are_named_and_proxied_apps_are_not(door):
    class Proxied(Socket):
        token_ws_declared = False

    class FromTheProxy(Socket):
        __module__ = "jupyter_server_proxy.handlers"

    class Inherits(FromTheProxy):
        __module__ = "of.somebody.else"

    class SaysSo(FromTheProxy):
        token_ws_declared = True

    class NotBelow(Socket):
        pass

    class NoSocket(web.RequestHandler):
        pass

    before = (await document(door))["sockets"]
    for pattern, handler in [
        ("late/(?P<thing_id>[^/]+)/socket/?", Socket),
        ("proxied/(.*)", Proxied),
        ("proxy/(.*)", FromTheProxy),
        ("inherits/(.*)", Inherits),
        ("says-so/(.*)", SaysSo),
        ("no-socket", NoSocket),
    ]:
        door.add(pattern, handler)
    door.app.web_app.add_handlers(".*$", [("/elsewhere/socket", NotBelow)])
    after = (await document(door))["sockets"]
    assert set(after) - set(before) == {"late/{id}/socket/", "says-so/{name}"}
    assert after == sorted(after)


async def test_C4_6_the_schema_is_served_and_valid(door):
    answer = await door.fetch(SCHEMA)
    assert answer.headers["content-type"].startswith("application/schema+json")
    schema = json.loads(answer.body)
    assert schema == capabilities_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({}, schema)


async def test_C4_6_a_websocket_url_of_its_own(door):
    for websocket_url, expected in [
        ("", "ws://{host}{base}"),
        ("wss://sockets.example", "wss://sockets.example{base}"),
        ("wss://sockets.example/", "wss://sockets.example{base}"),
        ("ws://sockets.example:81{base}", "ws://sockets.example:81{base}"),
        ("wss://sockets.example/below{base}", "wss://sockets.example/below{base}"),
        ("https://no.socket.example", "ws://{host}{base}"),
    ]:
        known = {"host": door.host, "base": door.base}
        reconfigure(door, websocket_url=websocket_url.format(**known))
        assert (await document(door))["ws_url"] == expected.format(**known)


async def test_C4_6_addresses_are_those_of_the_request(door):
    found = await document(door, {"Host": f"localhost:{door.port}"})
    assert found["base_url"] == f"http://localhost:{door.port}{door.base}"
    assert found["ws_url"] == f"ws://localhost:{door.port}{door.base}"


@pytest.mark.parametrize("jp_base_url", ["/", "/user/ann.lee/", "/a%20b/", "/deep/er/"])
async def test_C4_6_every_base_url(door):
    found = await document(door)
    assert found["base_url"] == f"http://{door.host}{door.base}"
    assert found["ws_url"] == f"ws://{door.host}{door.base}"
    assert {"api/kernels/{id}/channels", "api/events/subscribe"} <= set(found["sockets"])
    answer = await door.fetch(EVENTS, method="OPTIONS")
    assert answer.headers["link"] == f'<{door.base}{CAPABILITIES}>; rel="service-desc"'


# -- C5: versions and errors -----------------------------------------------------------------------


async def test_C5_1_the_same_major_version_is_compatible(door):
    for requested in [None, "1.0", " 1.0 ", "1.9", "1.0000"]:
        for path in [CAPABILITIES, SCHEMA]:
            headers = {} if requested is None else {"Api-Version": requested}
            answer = await door.fetch(path, headers)
            assert (answer.status, answer.headers["api-version"]) == (200, "1.0")


async def test_C5_2_an_unknown_version_is_answered_422(door):
    for requested in ["2.0", "0.9", "9", "", "one", "1.0, 2.0", "1." + "0" * 99]:
        for method in ["GET", "OPTIONS"]:
            for path in (CAPABILITIES, SCHEMA):
                answer = await door.fetch(path, {"Api-Version": requested}, method=method)
                assert answer.status == 422
                assert answer.headers["supported-api-versions"] == "1.0"
                assert answer.headers["api-version"] == "1.0"
                assert answer.headers["content-type"].startswith("application/json")
                assert json.loads(answer.body) == {
                    "status": "unsupported_api_version",
                    "supported_api_versions": ["1.0"],
                }


async def test_C5_4_C5_1_a_wrong_method_is_a_405_as_json(door):
    for requested in ["1.0", "2.0"]:
        for credential in [True, False]:
            for method in ["POST", "PUT", "PATCH", "DELETE", "BREW"]:
                headers = {"Api-Version": requested}
                if credential:
                    headers["Authorization"] = f"token {door.token}"
                for path in (CAPABILITIES, SCHEMA):
                    answer = await door.fetch(path, headers, method=method)
                    assert answer.status == 405
                    assert answer.headers["content-type"].startswith("application/json")
                    assert answer.headers["api-version"] == "1.0"
                    assert names(answer.headers["allow"]) == {"get", "head", "options"}
                    error = json.loads(answer.body)
                    assert error == {
                        "status": "bad_request",
                        "message": REASONS["bad_request"].text,
                    }
                    assert "set-cookie" not in answer.headers


async def test_C5_4_a_wrong_host_is_a_403_as_json(door):
    for path in (CAPABILITIES, SCHEMA):
        answer = await door.fetch(path, {"Host": "evil.example"})
        assert answer.status == 403
        assert answer.headers["api-version"] == "1.0"
        assert json.loads(answer.body) == {
            "status": "forbidden",
            "message": REASONS["forbidden"].text,
        }
    assert (await door.fetch(EVENTS, {"Host": "evil.example"}, method="OPTIONS")).status == 403


async def test_C5_4_a_body_that_is_not_json_is_415(door):
    for kind in ["text/plain", "application/x-www-form-urlencoded", None]:
        headers = {} if kind is None else {"Content-Type": kind}
        answer = await door.fetch(CAPABILITIES, headers, body=b"a=b")
        assert answer.status == 415
        told = json.loads(answer.body)
        assert told["status"] == "bad_request"
        assert "Content-Type: application/json" in told["message"]
        for json_kind in ("application/json", "Application/JSON; charset=utf-8"):
            answer = await door.fetch(CAPABILITIES, {"Content-Type": json_kind}, body=b"{}")
            assert answer.status == 200


class Failing(rest.ApiHandler):
    """One of our paths in trouble."""

    def get(self, what: str) -> None:
        if what == "crash":
            raise RuntimeError("of our own")
        if what == "unauthenticated":
            raise web.HTTPError(401)
        if what.isdigit():
            raise web.HTTPError(int(what))
        slug, _, seconds = what.partition("-")
        raise Refused(slug, int(seconds) if seconds else None)


async def test_C5_4_errors_are_json(door):
    for what, status, slug, retry_after in [
        ("crash", 500, "internal_error", None),
        ("unauthenticated", 401, "forbidden", None),
        ("404", 404, "not_found", None),
        ("418", 418, "bad_request", None),
        ("draining-3", 503, "draining", 3),
        ("too_many_connections-0", 429, "too_many_connections", 0),
        ("token_rejected", 403, "token_rejected", None),
    ]:
        door.add("api/token-ws/failing/(.*)", Failing)
        answer = await door.fetch(f"api/token-ws/failing/{what}")
        assert answer.status == status
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["api-version"] == "1.0"
        expected: dict[str, object] = {"status": slug, "message": REASONS[slug].text}
        if retry_after is not None:
            expected["retry_after"] = retry_after
        assert json.loads(answer.body) == expected
        shown = answer.headers.get("retry-after")
        assert shown == (None if retry_after is None else str(retry_after))


# -- the page where signing in ends ----------------------------------------------------------------


async def test_signing_in_ends_at_a_page_of_text(door):
    answer = await door.fetch("api/token-ws/signed-in", {"Authorization": f"token {door.token}"})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert b"You are signed in" in answer.body


@pytest.mark.parametrize("allowed", [True, False])
async def test_who_is_not_signed_in_comes_by_the_login(door, allowed):
    reconfigure(door, allow_unauthenticated_access=allowed)
    answer = await door.fetch("api/token-ws/signed-in", {"Authorization": "token wrong"})
    assert answer.status == 302
    path = f"{door.base}api/token-ws/signed-in"
    assert answer.headers["location"] == f"{door.base}login?" + urlencode({"next": path})
