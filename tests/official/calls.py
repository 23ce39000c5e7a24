"""Make calls to whichever `mixpanel` is installed, and print what came of each as JSON.

Each line of standard input is a call, `[consumer, method, arguments, keywords]`, and each line of
output what it returned or raised, and the messages that arrived at a sink. It needs nothing but the
standard library, as it runs in the official package's environment, too.
"""

import http.server
import json
import logging
import sys
import threading
from urllib.parse import parse_qs, urlsplit

UNSTABLE = {"time", "$time", "$insert_id", "$lib_version"}
TAGS = {"$nan": float("nan"), "$inf": float("inf")}


class Sink(http.server.BaseHTTPRequestHandler):
    """Accept everything, and keep the messages of each request."""

    protocol_version = "HTTP/1.1"
    messages = []  # noqa: RUF012

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        url = urlsplit(self.path)
        text = body.decode()
        data = json.loads(text if text[:1] in "[{" else parse_qs(text)["data"][0])
        records = data if isinstance(data, list) else [data]
        for record in records:
            self.messages.append([url.path, record])
        answer = json.dumps({"status": 1, "error": None, "code": 200}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Kept:
    """A consumer of the program's own."""

    def send(self, endpoint, json_message, api_key=None, api_secret=None):
        record = json.loads(json_message)
        Sink.messages.append([f"/kept/{endpoint}", record, api_key, api_secret])


def stable(message):
    """Return a message without what differs from call to call."""
    if isinstance(message, dict):
        return {
            key: "…" if key in UNSTABLE and not isinstance(value, str) else stable(value)
            for key, value in message.items()
            if key not in ("$insert_id", "$lib_version") or value == "own"
        }
    return [stable(each) for each in message] if isinstance(message, list) else message


def plain(value):
    """Return an argument with its tags replaced by what JSON cannot hold."""
    if isinstance(value, str):
        return TAGS.get(value, value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def outcome(mixpanel, url, call):
    kind, method, arguments, keywords = call
    Sink.messages.clear()
    urls = {
        "events_url": f"{url}/track",
        "people_url": f"{url}/engage",
        "groups_url": f"{url}/groups",
        "import_url": f"{url}/import",
    }
    consumer = Kept() if kind == "Kept" else getattr(mixpanel, kind)(**urls)
    try:
        mp = mixpanel.Mixpanel("token", consumer)
        mp._now = lambda: 1_764_000_000.25
        owner = consumer if method == "send" else mp
        returned = getattr(owner, method)(*plain(arguments), **plain(keywords))
        if kind == "BufferedConsumer":
            consumer.flush()
        result = ["returned", returned]
    except Exception as error:
        kinds = [each.__name__ for each in type(error).__mro__]
        is_own = "MixpanelException" in kinds
        result = ["raised", "MixpanelException" if is_own else type(error).__name__]
    close = getattr(consumer, "close", None)
    if close is not None:
        close()
    return {"result": result, "messages": [stable(each) for each in Sink.messages]}


def main():
    logging.disable()
    import mixpanel

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for line in sys.stdin:
        print(json.dumps(outcome(mixpanel, url, json.loads(line))), flush=True)
    server.shutdown()
    server.server_close()


if __name__ == "__main__":
    main()
