"""Whether each configured way of signing in leads to a credential that the server accepts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from jupyter_token_ws.client.auth import Authenticator, Grant
from jupyter_token_ws.client.errors import AuthError, ClientError
from jupyter_token_ws.protocol.auth import AuthPlugin, BasicAuth, Endpoint, NoAuth

from .case import Case, SkipError
from .report import Finding, Verdict

WHO = "api/me"
"""For whoever has signed in, at servers with the extension and without."""

_REFUSED = frozenset({401, 403})
_STALE = frozenset({"token_rejected", "token_expired", "token_revoked"})


async def login(case: Case) -> list[Finding]:
    """Each way is tried; the first that is accepted serves the checks that need a credential."""
    url = case.base() + WHO
    if (await case.ask("GET", url)).status == 200:
        case.everybody, case.grant = True, Grant(case.front)
        return [case.ok("no credential is needed")]
    if all(type(plugin) is NoAuth for plugin in case.plugins):
        raise SkipError("no credential was given, and the server wants one")
    if case.exposed:
        return [case.broken("nothing was sent", "plain_http")]
    findings = []
    for plugin in case.plugins:
        name = plugin.name
        found = await _try(case, plugin, name)
        findings.append(replace(found, check=f"login by {name}" if len(case.plugins) > 1 else ""))
    return findings


async def pass_front(case: Case, base_url: str) -> bool:
    """Whether there is something to show to a proxy in front that wants user and password."""
    for plugin in case.plugins:
        if isinstance(plugin, BasicAuth) and not (case.front or case.exposed):
            endpoint = Endpoint(base_url)
            grant = await Authenticator([plugin.alone()], endpoint, case.transport.request).grant()
            case.front = grant.headers
            case.secrets += grant.headers.values()
            return True
    return False


async def _try(case: Case, plugin: AuthPlugin[Any], name: str) -> Finding:
    endpoint = Endpoint(case.base(), case.capabilities)
    authenticator = Authenticator([plugin], endpoint, case.transport.request)
    case.closing.append(authenticator.aclose)
    status = 0
    try:
        for _ in range(2):
            grant = await authenticator.grant()
            headers = grant.for_http()
            case.secrets += [grant.token or "", *headers.values()]
            answer = await case.ask("GET", case.base() + WHO, headers)
            status = answer.status
            if status == 200:
                case.grant = case.grant or grant
                return case.ok(f"{name} is accepted{_name(answer.body)}")
            if not await authenticator.judge(grant, answer):
                break
    except AuthError as error:
        if authenticator.plugin is None and error.slug is None and not status:
            return case.finding(Verdict.SKIPPED, f"{name}: {error}")
        if status not in _REFUSED:
            stale = error.slug in _STALE
            return case.broken(f"{name}: {error}", "stale_token" if stale else "login_failed")
    except ClientError as error:
        return case.broken(f"{name}: {error}", "login_failed")
    cause = "stale_token" if status in _REFUSED else "login_failed"
    return case.broken(f"{name} is refused: {status}", cause)


def _name(body: bytes) -> str:
    try:
        name = json.loads(body)["identity"]["name"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return f", as {name}" if isinstance(name, str) else ""
