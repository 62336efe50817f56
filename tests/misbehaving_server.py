"""A server on 127.0.0.1 for test_download.py, which does wrong what it is told.

    server.script = [{'cut': 50_000}, {'answer': 503}]    # the first two requests; then all is well
"""

import http.server
import re
import time


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; `script` holds a dict for each request to come: what to do wrong."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.content, self.etag, self.script, self.requests = b'', '"one"', [], []
        self.proxy_passwords = []
        self.url = f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, request, client_address):
        pass    # a client that closes early is part of the game


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        act = server.script.pop(0) if server.script else {}
        server.requests.append((self.path, self.headers['Range'], self.headers['If-Range']))
        server.proxy_passwords.append(self.headers['Proxy-Authorization'])
        if 'change' in act:
            server.content, server.etag = act['change'], '"two"'
        if 'answer' in act:
            self.send_response(act['answer'])
            for name, value in act.get('headers', {}).items():
                self.send_header(name, value)
            self.end_headers()
            return
        if act.get('hang'):
            time.sleep(act['hang'])
        content, start = act.get('content', server.content), 0
        asked = re.match(r'bytes=(\d+)-', self.headers['Range'] or '')
        same = act.get('ignore if-range') or self.headers['If-Range'] in (None, server.etag)
        if asked and same and not act.get('ignore ranges'):
            start = int(asked[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        else:
            self.send_response(200)
        self.send_header('ETag', server.etag)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:start + act.get('cut', len(content))])
