"""A real HTTP server on this machine that speaks the chat protocol and answers what a test tells it to."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text):
    usage = {"prompt_tokens": 11, "completion_tokens": 3}
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


class Server:
    """An OpenAI-compatible server whose answers come from `reply(body, n)`: (status, headers, body), None drops the line."""

    def __init__(self, reply, port=0):
        self.bodies, self.keys, self.headers, self.in_flight, self.most_in_flight = [], [], [], 0, 0
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.bodies.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                    outer.headers.append(dict(self.headers))
                    outer.in_flight += 1
                    outer.most_in_flight = max(outer.most_in_flight, outer.in_flight)
                    n = len(outer.bodies)
                answer = reply(body, n) if self.path == "/v1/chat/completions" else (404, {}, "no such page")
                with lock:
                    outer.in_flight -= 1
                if answer is None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                status, headers, text = answer
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
