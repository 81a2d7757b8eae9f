"""How Sphinx makes HTML of these pages. The pages themselves are plain Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_token_ws import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "jupyter_token_ws"
project_copyright = "jupyter_token_ws contributors"
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Jupyter token-ws"
html_copy_source = False
# Anchors of headings as on GitHub, so that a link works here and there.
myst_heading_anchors = 3

# A table of contents that plain Markdown readers need not see.
CONTENTS = """
```{toctree}
:hidden:
:caption: Tutorial

tutorial/quickstart
```

```{toctree}
:hidden:
:caption: How to

how-to/install-for-a-team
how-to/what-the-page-says
how-to/token-websocket-in-your-page
how-to/sign-in-from-your-page
how-to/use-it-from-your-client
how-to/write-an-auth-plugin
how-to/run-code-on-a-remote-kernel
how-to/close-with-a-reason
how-to/stream-from-your-extension
how-to/configure
how-to/behind-a-firewall
how-to/tunnel-through-your-proxy
how-to/ask-the-doctor
how-to/log-in-from-a-terminal
how-to/limit-and-require-tls
how-to/redis
how-to/sealed-keys
how-to/jupyterhub
how-to/size-it-for-your-server
```

```{toctree}
:hidden:
:caption: Reference

reference/configuration
reference/codes
reference/wire
reference/capabilities
reference/login
reference/tunnel
reference/events
reference/metrics
reference/client
reference/python
reference/commands
reference/doctor
reference/conformance
```

```{toctree}
:hidden:
:caption: Explanation

explanation/why-tokens-leave-the-url
explanation/how-the-guard-gets-in
explanation/decisions
explanation/backlog
explanation/tunnel
explanation/client
explanation/limits
explanation/performance
```
"""


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the table of contents to the first page."""
    if docname == "index":
        source[0] += CONTENTS


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
