"""Who asks, and who may: clients, API keys and host names, known before a request's body is read."""

import hmac
import ipaddress
import logging
import re
from collections.abc import Hashable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import BadHost, RequestError, SettingsError, Unauthorized, UnknownHost
from . import problems
from .reloading import ReloadingValue

log = logging.getLogger(__name__)

#: RFC 6750's token characters; 16 of them, chosen at random, are out of reach for guessing over a network.
_KEY: Final = re.compile(r"[A-Za-z0-9._~+/=-]{16,}")
#: RFC 3986, 3.2.2 and 3.2.3, without names that consist of other characters than DNS has; empty where the target has no
#: host (RFC 9110, 7.2).
_HOST: Final = re.compile(r"([A-Za-z0-9._~%-]*|\[[0-9A-Fa-f:.%A-Za-z]+\])(:[0-9]*)?")
#: Probes carry no key, and a kubelet addresses a pod by its IP address. They say nothing about any photo.
_PROBES: Final = re.compile(r"/health(/.*)?|/v2/health/.*")
#: What the web page and the documentation consist of: the same for everybody.
_STATIC: Final = re.compile(r"/|/docs|/teach|/openapi\.json|/page/.*")
#: DeepStack's clients send their key in the form, with the photo: these routes ask ``Service.let_in_by_form``.
_KEY_IN_FORM: Final = re.compile(r"/v1/vision/(scene|custom/(?!list$)[^/]+)")
#: Where a request's scope has the digest of the key that it was let in with.
_SHOWN: Final = "classifier.key"
_HOW: Final = "Send it as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."


class Keys:
    """The API keys, held as SHA-256 digests only."""

    def __init__(self, keys: str | None, path: Path | None) -> None:
        """Takes the keys over.

        Args:
            keys: separated by commas.
            path: a file with one key a line and ``#`` comments. It is read again when it changes, and what it then
                has not, or not in the right form, is no key any more: a door that is to be closed does not stay open
                because the file is gone, empty or wrong.

        Raises:
            SettingsError: there is none, one is too short, or the file cannot be read.
        """
        self._given, faults = _digests("CLASSIFIER_API_KEYS", [] if keys is None else keys.split(","))
        if keys is not None and faults:
            raise SettingsError(faults[0])
        self._file: ReloadingValue[list[bytes]] | None = None
        if path:
            self._file = ReloadingValue(lambda: self._read(path), path)

    def accepts(self, key: str) -> bool:
        """Whether ``key`` is one of the keys; takes equally long for every wrong one."""
        digest = sha256(key.encode(errors="replace")).digest()
        found = False
        for known in [*self._given, *(self._file() if self._file else ())]:
            found |= hmac.compare_digest(known, digest)
        return found

    def check(self, scope: Scope, sent: list[str]) -> None:
        """Lets a request in, and notes with which key.

        Args:
            scope: the request's.
            sent: the keys that came with it.

        Raises:
            Unauthorized: none of them is right.
        """
        for key in sent:
            if self.accepts(key):
                scope[_SHOWN] = sha256(key.encode()).digest()
                return
        raise Unauthorized(f"This is none of the service's API keys. {_HOW}" if sent else f"No API key. {_HOW}")

    def _read(self, path: Path) -> list[bytes]:
        digests, faults = _read(path)
        if faults and self._file is None:
            raise SettingsError(faults[0])
        for fault in faults:
            log.error("not accepted as long as it stays so: %s", fault)
        return digests


class Access:
    """ASGI middleware that passes on what may pass, and answers the rest without reading its body."""

    def __init__(
        self, app: ASGIApp, keys: Keys | None, hosts: tuple[str, ...] | None, *, metrics_without_key: bool
    ) -> None:
        """Configures it.

        Args:
            app: what is protected.
            keys: the API keys; None: nobody needs one.
            hosts: the names that the service may be addressed by, ``*.`` for any subdomain; None: any.
            metrics_without_key: whether ``/metrics`` is answered to everybody.
        """
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._metrics_without_key = metrics_without_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers why not."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except RequestError as error:
                await problems.answer(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        path = scope["path"]
        if is_probe(path):
            return
        if self._hosts is not None and [_matches(host, self._hosts) for host in _values(scope, b"host")] != [True]:
            raise UnknownHost("The service is not known by this name. Use one that CLASSIFIER_ALLOWED_HOSTS lists.")
        if self._keys is None or needs_no_key(path) or (path == "/metrics" and self._metrics_without_key):
            return
        sent = keys_in_headers(scope)
        if sent or not _KEY_IN_FORM.fullmatch(path):
            self._keys.check(scope, sent)


def is_let_in(scope: Scope) -> bool:
    """Whether a request has shown a right key."""
    return _SHOWN in scope


class OneHost:
    """ASGI middleware that answers requests which do not name exactly one host (RFC 9112, 3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers why not."""
        if scope["type"] == "http":
            hosts = _values(scope, b"host")
            if len(hosts) != 1 and (hosts or scope["http_version"] != "1.0"):
                detail = f"The request has {len(hosts)} Host fields. HTTP/1.1 wants exactly one: 'Host: <name>'."
            elif hosts and not _HOST.fullmatch(hosts[0]):
                detail = "The Host field is no host name or address with or without a port. Send 'Host: <name>'."
            else:
                await self._app(scope, receive, send)
                return
            await problems.answer(Request(scope), BadHost(detail))(scope, receive, send)
            return
        await self._app(scope, receive, send)


def needs_no_key(path: str) -> bool:
    """Whether a path is open to everybody: probes, and files that hold no photo."""
    return is_probe(path) or _STATIC.fullmatch(path) is not None


def is_probe(path: str) -> bool:
    """Whether it is a probe that asks."""
    return _PROBES.fullmatch(path) is not None


def client_of(scope: Scope) -> Hashable:
    """Whose request it is: the key's that it was let in with, where keys are needed, else its address's.

    An IPv6 address counts by its first 64 bits, the rest of which a host chooses as it likes (RFC 7421); a link-local
    one as it is, since all hosts on a link have the same 64 bits.
    """
    if is_let_in(scope):
        key: bytes = scope[_SHOWN]
        return key
    host: str = scope["client"][0] if scope.get("client") else ""
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return host if address.is_link_local else int(address) >> 64


def describe(document: dict[str, Any], formats: tuple[problems.ErrorFormat, ...]) -> None:
    """Adds to a service's OpenAPI document how a key is sent, where one is needed, and the answer without it.

    Args:
        document: is changed.
        formats: how protocols with paths of their own tell errors.
    """
    document.setdefault("components", {})["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in document["paths"].items():
        if not needs_no_key(path):
            told_by = next((form for form in formats if form.speaks(path)), problems)
            refused = {str(status): answer for status, answer in told_by.responses(Unauthorized).items()}
            for operation in operations.values():
                operation["security"] = [{"bearer": []}, {"header": []}]
                operation["responses"] |= refused


def keys_in_headers(scope: Scope) -> list[str]:
    """The API keys that a request's headers have."""
    # The second is what clients of Azure Custom Vision have.
    found = _values(scope, b"x-api-key") + _values(scope, b"prediction-key")
    for value in _values(scope, b"authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            found.append(key.strip())
    return found


def _values(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]


def _matches(host: str, allowed: tuple[str, ...]) -> bool:
    # RFC 3986, 3.2.2: an IPv6 address stands in brackets, so that its colons are not the port's.
    name = re.sub(r":\d*$", "", host).lower()
    return any(name == pattern or (pattern.startswith("*.") and name.endswith(pattern[1:])) for pattern in allowed)


def _read(path: Path) -> tuple[list[bytes], list[str]]:
    """The digests of the keys in a file, and what is wrong with it, if anything."""
    name = f"CLASSIFIER_API_KEYS_FILE ({path})"
    try:
        data = path.read_bytes()
    except OSError as error:
        return [], [f"{name}: it cannot be read: {error.strerror}"]
    if b"\0" in data:
        return [], [f"{name}: it is no text in UTF-8, but perhaps in UTF-16. Save it as UTF-8."]
    # Editors on Windows put a byte order mark before UTF-8. What is not UTF-8 is no key, and its line is named.
    lines = data.decode("utf-8-sig", "replace").splitlines()
    return _digests(name, [line.partition("#")[0] for line in lines])


def _digests(source: str, keys: Iterable[str]) -> tuple[list[bytes], list[str]]:
    """The digests of the keys that can be ones, and a sentence about each that cannot: which it is, not what it is."""
    found = [key for key in map(str.strip, keys) if key]
    faults = [
        f"{source}: key {number} is not at least 16 characters out of A-Z a-z 0-9 . _ ~ + / = -. "
        "Make one with: openssl rand -hex 32"
        for number, key in enumerate(found, 1)
        if not _KEY.fullmatch(key)
    ]
    if not found:
        faults = [f"{source}: there is no key in it. Put one there, or do not set it."]
    return [sha256(key.encode()).digest() for key in found if _KEY.fullmatch(key)], faults
