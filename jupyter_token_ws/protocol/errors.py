"""What every error of a client tells: what to do next. Without I/O: auth plugins raise them too."""

from __future__ import annotations

from .reasons import Advice

__all__ = ["AuthError", "ClientError"]


class ClientError(Exception):
    """The root of everything that the client raises on purpose; ``client/errors.py`` has the tree.

    Args:
        message: a sentence for people, with what to do about it, and without any secret.
        advice: what to do next; a class has its own where it is not given.
        retry_after: seconds before which another try is no use, where somebody said so.
        slug: the reason's name of the table (contract section 3), where the server told one.
    """

    advice: Advice = Advice.STOP

    def __init__(
        self,
        message: str,
        *,
        advice: Advice | None = None,
        retry_after: float | None = None,
        slug: str | None = None,
    ) -> None:
        super().__init__(message)
        if advice is not None:
            self.advice = advice
        self.retry_after = retry_after
        self.slug = slug


class AuthError(ClientError):
    """No credential is to be had, or the one there is does not open this."""

    advice = Advice.AUTHENTICATE
