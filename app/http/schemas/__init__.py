"""The public HTTP contract: what goes over the wire, as pydantic models. They make the OpenAPI document too."""
