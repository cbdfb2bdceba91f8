"""The image's HEALTHCHECK: exit code 0 if the service is ready. Imports next to nothing, for it runs every 30 s."""

import os
import socket
import sys

# The wildcard addresses reach this machine too.
address = (os.environ.get("CLASSIFIER_HOST") or "0.0.0.0", int(os.environ.get("CLASSIFIER_PORT") or 8000))  # noqa: S104
with socket.create_connection(address, timeout=4) as connection:
    connection.sendall(b"GET /health/ready HTTP/1.0\r\n\r\n")
    sys.exit(b" 200 " not in connection.recv(64))
