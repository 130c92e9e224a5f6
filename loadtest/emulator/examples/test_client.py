"""A client asks again after a failure, and takes nothing for a token that is none."""

import http.client
import json
import os
import subprocess
import unittest
import urllib.request

EMULATOR = os.environ.get("EMULATOR", "foretoken-emulator")
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"


def ask(url, method="GET", body=None):
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Metadata": "true"}, method=method)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return json.load(answer)


def token(base, tries):
    """The client under test."""
    for _ in range(tries):
        try:
            return ask(base + TOKEN)["access_token"]
        except (OSError, ValueError, TypeError, LookupError, http.client.HTTPException):
            continue
    return None


class Client(unittest.TestCase):
    def setUp(self):
        command = [EMULATOR, "--listen", "127.0.0.1:0"]
        self.emulator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.base = self.emulator.stdout.readline().split()[-1]

    def tearDown(self):
        self.emulator.terminate()
        self.emulator.wait()
        self.emulator.stdout.close()

    def control(self, method, action, body=None):
        return ask(f"{self.base}/_emulator/{action}", method, body)

    def test_it_asks_again(self):
        for mode in ["status-503", "reset", "json-truncated"]:
            self.control("POST", "modes", {"mode": mode, "times": 1})
        self.assertIsNotNone(token(self.base, tries=4))
        counts = self.control("GET", "counts")
        self.assertEqual(counts["modes"], {"status-503": 1, "reset": 1, "json-truncated": 1})
        self.assertEqual(counts["token_calls"], 4)

    def test_it_takes_no_status_and_no_broken_connection_for_a_token(self):
        bad = [it["name"] for it in self.control("GET", "catalogue")
               if it["keep"] == "no" and it["name"].startswith(("status-5", "reset", "close"))]
        self.assertGreater(len(bad), 20)
        self.control("POST", "settings", {"limits": {"requests_per_s": 0}})
        for mode in bad:
            with self.subTest(mode):
                self.control("POST", "modes", {"mode": mode, "times": 1})
                self.assertIsNone(token(self.base, tries=1))


if __name__ == "__main__":
    unittest.main()
