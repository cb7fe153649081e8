"""Python's own clients, and requests: `python.py URL`. Prints `ok`, or fails with what it saw."""

import http.client
import json
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import requests

URL = sys.argv[1]
HOST = urlsplit(URL).netloc
ITEM = b'{"id":"5","tenant":"asd"}'
JSON = {"Content-Type": "application/json"}
LARGE = b"[" + b" " * (12 << 20) + b"]"
REFUSED = [("POST", "/items", {"Content-Type": "text/xml"}, 415), ("POST", "/item", JSON, 404), ("PUT", "/items", JSON, 405)]


def ask(connection, method, path, body=None, headers={}):
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def want(what, seen, expected):
    assert seen == expected, f"{what}: saw {seen!r}, expected {expected!r}"


# One connection, which auto-opens again only when it is told that it was closed.
connection = http.client.HTTPConnection(HOST, timeout=60)
connection.connect()
connection.auto_open = False
for _ in range(200):
    want("post", ask(connection, "POST", "/items", ITEM, JSON)[0], 200)
    want("count", json.loads(ask(connection, "GET", "/items/asd/count", ITEM, JSON)[1])["count"], 1)
for method, path, headers, status in REFUSED:
    want(path, ask(connection, method, path, b"x" * 300_000, headers)[0], status)
    want("the next post", ask(connection, "POST", "/items", ITEM, JSON)[0], 200)

for _ in range(3):
    connection = http.client.HTTPConnection(HOST, timeout=60)
    want("http.client", ask(connection, "POST", "/items", LARGE, JSON)[0], 413)
    request = urllib.request.Request(URL + "/items", LARGE, JSON)
    try:
        urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        want("urllib", error.code, 413)
    else:
        raise AssertionError("urllib: accepted")
    want("requests", requests.post(URL + "/items", LARGE, headers=JSON, timeout=60).status_code, 413)
with requests.Session() as session:
    for method, path, headers, status in REFUSED:
        for _ in range(5):
            want(path, session.request(method, URL + path, data=b"x" * 300_000, headers=headers, timeout=60).status_code, status)
            want("the next post", session.post(URL + "/items", ITEM, headers=JSON, timeout=60).status_code, 200)
print("ok")
