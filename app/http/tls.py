"""TLS from certificate files, which are read again when they are renewed."""

import ssl
from pathlib import Path

from ..errors import SettingsError
from .reloading import ReloadingValue


def context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server needs to speak TLS 1.2 or newer.

    Args:
        certificate: PEM file with the certificate and what leads to its root.
        key: PEM file with its private key, not encrypted.

    Raises:
        SettingsError: a file cannot be read, or they do not belong together.
    """
    current = ReloadingValue(lambda: _load(certificate, key), certificate, key)
    first = current()

    def renew(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = current()

    # Python's only hook into a handshake; it is called whether or not the client names a host.
    first.sni_callback = renew
    return first


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    for setting, path in (("CLASSIFIER_TLS_CERTIFICATE", certificate), ("CLASSIFIER_TLS_KEY", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{setting}: {path} cannot be read: {error.strerror}") from error
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    try:
        # Without an answer OpenSSL asks for an encrypted key's password on the terminal.
        made.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"CLASSIFIER_TLS_CERTIFICATE, CLASSIFIER_TLS_KEY: {certificate} and {key} are not a PEM certificate and "
            f"its unencrypted PEM key: {error}"
        ) from error
    return made
