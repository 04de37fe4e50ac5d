"""A feed of posts as server-sent events, to try the example with. It hangs up after every 20 posts, as real feeds do,
and goes on behind `Last-Event-ID`. Standard library only: python3 feed.py [PORT] [POSTS] [PAUSE_SECONDS]"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8099
POSTS = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
PAUSE = float(sys.argv[3]) if len(sys.argv) > 3 else 0.2
HANGS_UP_AFTER = 20

TEXTS = [
    "My cat has learned to open the fridge", "Morning run with the dog", "Rain again in the harbour",
    "Two kittens found a warm keyboard", "The puppy ate my notes", "Cats and dogs living together, who knew",
    "New bakery on the corner", "The category of this post is none of your business", "Dogs at the beach all day",
    "Is a hot dog a sandwich?", "Cat asleep on the router, network is fine",
]


def post(number):
    return {
        "id": f"p-{number:05}",
        "text": TEXTS[number % len(TEXTS)],
        "user": {"name": f"user{number % 7}", "followers": number * 13 % 997},
        "tags": ["cats"] if number % 11 == 3 else [],
        "created_at": f"2026-11-20T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
    }


class Feed(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer demo":
            self.send_error(401)
            return
        first = int(self.headers.get("Last-Event-ID", "-1")) + 1
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        try:
            for number in range(first, min(first + HANGS_UP_AFTER, POSTS)):
                self.wfile.write(f"id: {number}\ndata: {json.dumps(post(number))}\n\n".encode())
                self.wfile.flush()
                time.sleep(PAUSE)
            while first >= POSTS:  # nothing left: keep the line open
                self.wfile.write(b": still here\n\n")
                self.wfile.flush()
                time.sleep(1)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", PORT), Feed).serve_forever()
