"""The edge of the service: sockets, requests, answers, and who may ask."""
