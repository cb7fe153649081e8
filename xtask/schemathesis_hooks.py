"""What schemathesis must be told beyond the API's description: how NDJSON is written."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    """An element a line. What is no array gets brackets: one object alone would be a valid line."""
    lines = value if isinstance(value, list) else [[value]]
    return "".join(json.dumps(line, default=str) + "\n" for line in lines).encode()
