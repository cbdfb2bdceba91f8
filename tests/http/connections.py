"""Connections whose every byte a test decides on."""

import socket

import httpx


def connect(client: httpx.Client) -> socket.socket:
    """One to the service of a client."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port))
    connection.settimeout(20)
    return connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side ends it."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received
