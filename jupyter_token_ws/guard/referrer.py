"""Pages that were opened by a token do not tell it as their ``Referer``.

The link that a server prints has the token in its address. JupyterLab takes it out as soon as it runs,
but the scripts and styles that its HTML names are asked for before that, and so the access log of every
proxy had the token a second time. A ``Referrer-Policy`` on the answer to such an address leaves scheme, host
and port in the ``Referer``, which is all that a check of the origin needs.
"""

from __future__ import annotations

from tornado import httputil, web

POLICY = "strict-origin"
_HEADER = "Referrer-Policy"


class ReferrerPolicy(web.OutputTransform):
    """Adds the policy to answers whose address has a parameter ``token``.

    Where the server or a handler has a policy of its own, that holds.
    """

    def __init__(self, request: httputil.HTTPServerRequest) -> None:
        # As it came: handlers may take the token out of it.
        self._needed = "token" in request.query_arguments

    def transform_first_chunk(
        self, status_code: int, headers: httputil.HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, httputil.HTTPHeaders, bytes]:
        """Called by tornado when the header is about to be sent."""
        if self._needed and _HEADER not in headers:
            headers[_HEADER] = POLICY
        return status_code, headers, chunk


def install(application: web.Application) -> None:
    """Have it on every answer of the application."""
    application.add_transform(ReferrerPolicy)
