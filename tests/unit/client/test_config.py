"""Auth plugins by argument, environment and file: in which order, with what, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_token_ws.client.config import (
    AUTH,
    CONFIG,
    GROUP,
    MAX_FILE,
    plugins_by_name,
    plugins_of,
    plugins_of_file,
)
from jupyter_token_ws.client.errors import ClientError
from jupyter_token_ws.protocol.auth import (
    IGNORE,
    AuthPlugin,
    BasicAuth,
    CookieAuth,
    Endpoint,
    HubAuth,
    NoAuth,
    TicketAuth,
    TokenAuth,
    secret_of,
)


def kinds(plugins: tuple[AuthPlugin[Any], ...]) -> list[type[Any]]:
    return [type(plugin) for plugin in plugins]


def token_of(plugin: AuthPlugin[Any]) -> str:
    assert isinstance(plugin, TokenAuth)
    return secret_of(plugin._token)


def ignores(plugin: AuthPlugin[Any], base_url: str = "https://lab.example/") -> bool:
    try:
        next(plugin.initialize(Endpoint(base_url, {"login": {}}), 0))
    except StopIteration as stop:
        return stop.value is IGNORE
    return False


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "auth.toml"
    path.write_text(text)
    return path


def test_by_argument():
    token, none = TokenAuth("abc"), NoAuth()
    assert token_of(plugins_of("abc", {AUTH: "none"})[0]) == "abc"
    assert plugins_of(token, {AUTH: "none"}) == (token,)
    assert plugins_of([token, none], {}) == (token, none)
    assert kinds(plugins_of(None, {})) == [NoAuth]


def test_the_list_of_the_environment_comes_before_the_file(tmp_path: Path):
    path = written(tmp_path, '[[auth]]\nplugin = "none"\n')
    assert kinds(plugins_of(None, {AUTH: "hub,token", CONFIG: str(path)})) == [HubAuth, TokenAuth]
    assert kinds(plugins_of(None, {AUTH: "", CONFIG: str(path)})) == [NoAuth]


def test_names_in_their_order_and_their_secrets(tmp_path: Path):
    environ = {
        "JUPYTER_TOKEN": "abc",
        "JUPYTERHUB_API_TOKEN": "hub",
        "JUPYTERHUB_BASE_URL": "/at/",
        "JUPYTER_PASSWORD": "sesame",
    }
    plugins = plugins_by_name(" ticket, cookie ,hub,token,none,", environ)
    assert kinds(plugins) == [TicketAuth, CookieAuth, HubAuth, TokenAuth, NoAuth]
    assert [token_of(plugin) for plugin in plugins[2:4]] == ["hub", "abc"]
    assert ignores(plugins[2])
    assert not ignores(plugins[2], "https://hub.example/at/user/ann/")
    environ["JUPYTER_TOKEN"] = "another"
    assert token_of(plugins[3]) == "another"


@pytest.mark.parametrize("name", ["token", "cookie", "ticket", "hub"])
def test_a_plugin_without_its_secret_leaves_it_to_the_next(name: str):
    (plugin,) = plugins_by_name(name, {})
    assert ignores(plugin, "https://lab.example/user/ann/")


def test_a_secret_in_a_file_that_is_rewritten(tmp_path: Path):
    secret = tmp_path / "token"
    secret.write_text("abc\n")
    (plugin,) = plugins_by_name("token", {"JUPYTER_TOKEN_FILE": str(secret)})
    assert token_of(plugin) == "abc"
    secret.write_text("def\r\n")
    assert token_of(plugin) == "def"
    secret.unlink()
    with pytest.raises(ClientError, match="token"):
        token_of(plugin)


def test_basic_takes_those_after_it_beside_it():
    environ = {"JUPYTER_PROXY_USER": "us", "JUPYTER_PROXY_PASSWORD": "hidden"}
    first, basic = plugins_by_name("hub,basic,cookie,none", environ)
    assert isinstance(first, HubAuth)
    assert isinstance(basic, BasicAuth)
    assert kinds(basic._beside) == [CookieAuth, NoAuth]
    assert basic._added(Endpoint("http://h/"), {}) == {"Authorization": "Basic dXM6aGlkZGVu"}
    # Where there is no user there is no such proxy.
    assert kinds(plugins_by_name("basic,cookie,none", {})) == [CookieAuth, NoAuth]


def test_a_file(tmp_path: Path):
    path = written(
        tmp_path,
        """
        [[auth]]
        plugin = "ticket"
        password_env = "LAB"
        max_age = 60
        servers = ["https://lab.example/"]
        [[auth]]
        plugin = "basic"
        user = "us"
        password_file = "none"
        [[auth]]
        plugin = "cookie"
        token_env = "LAB"
        """,
    )
    ticket, basic = plugins_of_file(path, {"LAB": "sesame"})
    assert isinstance(ticket, TicketAuth)
    assert (ticket._credential(), ticket._max_age) == ({"password": "sesame"}, 60)
    assert ticket.servers == ("https://lab.example/",)
    assert isinstance(basic, BasicAuth)
    (cookie,) = basic._beside
    assert isinstance(cookie, CookieAuth)
    assert secret_of(cookie._secret) == "sesame"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[auth", "no TOML"),
        ("", "auth"),
        ("auth = 3", "auth"),
        ('[auth]\nplugin = "token"', r"write \[\[auth\]\], with two brackets"),
        ('[[auth]]\nplugin = "os:getcwd"', r"names a class.*entry point of jupyter_token_ws\.auth"),
        ('[[auth]]\nplugin = "os.getcwd"', "names a class"),
        ("auth = [3]", "auth"),
        ('[[auth]]\nplugin = "token"\ntoken = "hidden"', "token_env or token_file"),
        ('[[auth]]\nplugin = "token"\ntokn_env = "X"', "no option tokn_env, but token"),
        ('[[auth]]\nplugin = "none"\nmax_age = 1', "no option max_age, but none"),
        ('[[auth]]\nplugin = "token"\nservers = "x"', "servers"),
        ('[[auth]]\nplugin = "token"\nservers = [1]', "servers"),
        ('[[auth]]\nplugin = "unheard"', "none, token, cookie, ticket, basic, hub"),
        ("[[auth]]\nplugin = 3", "needs plugin = .*known are"),
        ("[[auth]]", "needs plugin = .*known are"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str):
    with pytest.raises(ClientError, match=said) as caught:
        plugins_of_file(written(tmp_path, text), {})
    assert "hidden" not in str(caught.value)


def test_a_list_imports_nothing_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "never_imported.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ClientError, match="names a class"):
        plugins_by_name("token,never_imported:Plugin", {})


@pytest.mark.parametrize("names", [",", "token,unheard"])
def test_a_list_that_is_none(names: str):
    with pytest.raises(ClientError, match="none, token, cookie, ticket, basic, hub"):
        plugins_by_name(names, {})


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(ClientError, match=r"auth\.toml cannot be read"):
        plugins_of_file(tmp_path / "auth.toml")
    path = written(tmp_path, "x" * (MAX_FILE + 1))
    with pytest.raises(ClientError, match=str(MAX_FILE)):
        plugins_of_file(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ClientError, match="no text"):
        plugins_of_file(path)


# -- other people's ------------------------------------------------------------------------------------

THEIRS = """
from jupyter_token_ws.protocol.auth import TokenAuth

class Vault(TokenAuth):
    name = "vault"

    def __init__(self, *, token="x", path="default"):
        super().__init__(token)
        self.path = path

def odd():
    return 3
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with two entry points."""
    (tmp_path / "their_vault.py").write_text(THEIRS)
    about = tmp_path / "their_vault-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-vault\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        f"[{GROUP}]\nvault = their_vault:Vault\nodd = their_vault:odd\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "their_vault", raising=False)


@pytest.mark.usefixtures("installed")
def test_a_plugin_by_its_entry_point(tmp_path: Path):
    (plugin,) = plugins_by_name("vault", {})
    assert (plugin.name, vars(plugin)["path"]) == ("vault", "default")
    path = written(tmp_path, '[[auth]]\nplugin = "vault"\ntoken_env = "T"\npath = "here"\n')
    (plugin,) = plugins_of_file(path, {"T": "abc"})
    assert (token_of(plugin), vars(plugin)["path"]) == ("abc", "here")


@pytest.mark.usefixtures("installed")
def test_an_entry_point_that_does_not_do(tmp_path: Path):
    with pytest.raises(ClientError, match="odd"):
        plugins_by_name("odd", {})
    path = written(tmp_path, '[[auth]]\nplugin = "vault"\nunheard = 1\n')
    with pytest.raises(ClientError, match="unheard"):
        plugins_of_file(path, {})
    with pytest.raises(ClientError, match="odd, vault"):
        plugins_by_name("another", {})
