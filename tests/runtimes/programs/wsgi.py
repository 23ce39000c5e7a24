"""A WSGI application: `GET /7` tracks event 7 through each client."""

from clients import track


def app(environ, start_response):
    """Serve a request."""
    number = environ["PATH_INFO"].strip("/")
    if number.isdigit():
        track(int(number))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]
