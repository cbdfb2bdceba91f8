"""The headers that keep a browser from doing with an answer what it is not meant for."""

from typing import Final

#: Whatever answers: the service's answers are data, to be read by whoever asked for them and nobody else.
ALWAYS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def security_headers(hsts_seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    """The headers for every answer that does not have them; with a promise to stay on TLS if that is given a time."""
    if not hsts_seconds:
        return ALWAYS
    return (*ALWAYS, (b"strict-transport-security", b"max-age=%d" % hsts_seconds))
