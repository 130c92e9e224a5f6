"""Stand-ins for Azure's services, that take a bearer token seriously.

    python stand_in.py --discovery URL --folder FOLDER [--first-port PORT] [--secrets FILE]

Serves as much of three services as their stock clients need, over TLS, each on a port of its own of
127.0.0.1: three in a row from PORT on, or free ones. Prints where. Every request has to carry a
token whose signature, issuer, audience and life are right, by the keys that the discovery document
at URL leads to. A refusal names what was wrong, and a token is never printed.

- vault: Key Vault, with its challenge. The secrets are those of FILE, {"name": "value"}; without
  one, a single secret `database-password` is made up.
- resource-manager: the resource groups of any subscription.
- data-lake: files, as long as the process runs.

FOLDER is made. It gets `ca.pem`, which clients have to trust, and `server.pem` and `server.key`, of
a certificate for 127.0.0.1 and localhost that is good for a day. The authority's own key is thrown
away when the certificate is signed.
"""

import argparse
import datetime
import ipaddress
import json
import os
import re
import secrets
import ssl
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

TIMEOUT_S = 30
BODY_LIMIT = 1 << 20
FILES_LIMIT = 100
# All must be said.
KEY_USAGES = [
    "content_commitment",
    "crl_sign",
    "data_encipherment",
    "decipher_only",
    "encipher_only",
    "key_agreement",
    "key_encipherment",
]
GROUPS = ["rg-orders", "rg-ledger"]


def main():
    parser = argparse.ArgumentParser(description="Stand-ins for Azure's services.")
    parser.add_argument("--discovery", required=True, metavar="URL")
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--first-port", type=int, metavar="PORT")
    parser.add_argument("--secrets", type=Path, metavar="FILE")
    told = parser.parse_args()
    if told.secrets is None:
        kept = {"database-password": secrets.token_urlsafe(24)}
    else:
        kept = json.loads(told.secrets.read_text())
    verifier = Verifier(told.discovery)
    certificate, key = make_certificates(told.folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    services = [
        ("vault", Vault, kept),
        ("resource-manager", ResourceManager, GROUPS),
        ("data-lake", DataLake, {}),
    ]
    running = []
    for at, (name, service, data) in enumerate(services):
        port = 0 if told.first_port is None else told.first_port + at
        running.append(serve(name, service, port, context, verifier, data))
    print(f"to be trusted: {told.folder / 'ca.pem'}", flush=True)
    for server in running:
        server.join()


class Verifier:
    """What every service does with a token before anything else."""

    def __init__(self, discovery):
        document = fetch_json(discovery)
        self.issuer = document["issuer"]
        keys = jwt.PyJWKSet.from_dict(fetch_json(document["jwks_uri"])).keys
        self.keys = {key.key_id: key for key in keys}

    def verify(self, token, audience):
        """The claims; an error of jwt's says what is wrong."""
        key = self.keys.get(jwt.get_unverified_header(token).get("kid"))
        if key is None:
            raise jwt.InvalidKeyError("not a key of the issuer")
        return jwt.decode(
            token,
            key,
            # Not what the token's own header says.
            algorithms=["RS256"],
            audience=audience,
            issuer=self.issuer,
            leeway=0,
            options={"require": ["exp", "nbf", "aud", "iss"], "strict_aud": True},
        )


def fetch_json(url):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read(BODY_LIMIT))


def make_certificates(folder):
    """A test authority, and a certificate that it signed: the paths of the latter and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = authority_key.public_key()
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Foretoken test authority")])
    server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])

    def certificate(name, key, is_authority):
        usage = dict.fromkeys(KEY_USAGES, False)
        usage |= {"digital_signature": not is_authority, "key_cert_sign": is_authority}
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), True)
            .add_extension(x509.KeyUsage(**usage), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False)
        )

    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    signed = [
        certificate(authority, authority_key, True),
        certificate(server, server_key, False)
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
    pem = serialization.Encoding.PEM
    for name, builder in zip(("ca.pem", "server.pem"), signed, strict=True):
        made = builder.sign(authority_key, hashes.SHA256()).public_bytes(pem)
        (folder / name).write_bytes(made)
    key = folder / "server.key"
    key.unlink(missing_ok=True)
    text = server_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
    return folder / "server.pem", key


def serve(name, service, port, context, verifier, data):
    """Starts a service, and tells where it is; its thread."""
    server = Server(("127.0.0.1", port), service)
    server.verifier = verifier
    server.data = data
    server.url = f"https://127.0.0.1:{server.server_port}"
    # The handshake is left to the connection's own thread: nobody can hold up the others.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    print(f"{name} listening on {server.url}", flush=True)
    return thread


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        error = sys.exc_info()[1]
        print(f"a connection ended: {type(error).__name__}", file=sys.stderr, flush=True)


class Service(BaseHTTPRequestHandler):
    """One connection. Who has no good token gets no further than `answer`."""

    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    audience = ""

    def do_GET(self):
        self.answer()

    do_HEAD = do_PUT = do_PATCH = do_DELETE = do_POST = do_GET

    def answer(self):
        length = int(self.headers.get("Content-Length") or 0)
        if length > BODY_LIMIT or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return self.send(413, {})
        body = self.rfile.read(length)
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            return self.refuse("no bearer token")
        try:
            self.server.verifier.verify(token.strip(), self.audience)
        except jwt.PyJWTError as error:
            return self.refuse(type(error).__name__)
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        return self.handle_verified(unquote(url.path), query, body)

    def handle_verified(self, path, query, body):
        raise NotImplementedError

    def challenge(self):
        """What Azure's services send with a 401: where tokens are to be had."""
        tenant = urlsplit(self.server.verifier.issuer).path.strip("/")
        return f'Bearer authorization_uri="https://login.microsoftonline.com/{tenant}"'

    def refuse(self, why):
        error = {"code": "InvalidAuthenticationToken", "message": f"Refused: {why}."}
        self.send(401, {"error": error}, {"WWW-Authenticate": self.challenge()})

    def send(self, status, body, headers=()):
        if isinstance(body, dict):
            kind, body = "application/json", json.dumps(body).encode()
        else:
            kind = "application/octet-stream"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        """Silent: a request's line is of no use to anybody."""


class Vault(Service):
    audience = "https://vault.azure.net"
    version = "0123456789abcdef0123456789abcdef"

    def challenge(self):
        tenant = urlsplit(self.server.verifier.issuer).path.strip("/")
        return (
            f'Bearer authorization="https://login.microsoftonline.com/{tenant}", '
            f'resource="{self.audience}"'
        )

    def handle_verified(self, path, query, body):
        found = re.fullmatch(r"/secrets/([0-9a-zA-Z-]+)/?", path)
        if self.command != "GET" or found is None or "api-version" not in query:
            return self.send(404, {"error": {"code": "BadRequest", "message": "not served"}})
        value = self.server.data.get(found[1])
        if value is None:
            return self.send(404, {"error": {"code": "SecretNotFound", "message": found[1]}})
        id = f"{self.server.url}/secrets/{found[1]}/{self.version}"
        return self.send(200, {"value": value, "id": id, "attributes": {"enabled": True}})


class ResourceManager(Service):
    audience = "https://management.azure.com"

    def handle_verified(self, path, query, body):
        found = re.fullmatch(r"/subscriptions/([0-9a-f-]+)/resourcegroups", path, re.IGNORECASE)
        if self.command != "GET" or found is None or "api-version" not in query:
            return self.send(404, {"error": {"code": "NotFound", "message": "not served"}})
        groups = [
            {
                "id": f"/subscriptions/{found[1]}/resourceGroups/{name}",
                "name": name,
                "type": "Microsoft.Resources/resourceGroups",
                "location": "westeurope",
            }
            for name in self.server.data
        ]
        return self.send(200, {"value": groups})


class DataLake(Service):
    """A file is made, then bytes are appended to it, then flushed; reading is Blob Storage's."""

    audience = "https://storage.azure.com"

    def handle_verified(self, path, query, body):
        files = self.server.data
        if self.command == "PUT" and query.get("resource") == "file":
            if len(files) >= FILES_LIMIT:
                return self.send(507, {})
            files[path] = b""
            return self.send(201, b"", self.state())
        if path not in files:
            return self.send(404, {"error": {"code": "PathNotFound", "message": "no such file"}})
        if self.command == "PATCH" and query.get("action") == "append":
            if int(query["position"]) != len(files[path]) or len(files[path]) > BODY_LIMIT:
                return self.send(400, {"error": {"code": "InvalidFlushPosition", "message": ""}})
            files[path] += body
            return self.send(202, b"", self.state())
        if self.command == "PATCH" and query.get("action") == "flush":
            return self.send(200, b"", self.state())
        if self.command in ("GET", "HEAD"):
            return self.send_file(files[path])
        return self.send(404, {"error": {"code": "NotFound", "message": "not served"}})

    def send_file(self, content):
        headers = {**self.state(), "x-ms-blob-type": "BlockBlob"}
        asked = self.headers.get("x-ms-range") or self.headers.get("Range") or ""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if found is None:
            return self.send(200, content, headers)
        first, last = int(found[1]), int(found[2] or len(content) - 1)
        part = content[first : last + 1]
        if not part:
            return self.send(416, {"error": {"code": "InvalidRange", "message": ""}})
        place = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        return self.send(206, part, {**headers, "Content-Range": place})

    def state(self):
        now = datetime.datetime.now(datetime.UTC)
        return {"ETag": '"0x1"', "Last-Modified": now.strftime("%a, %d %b %Y %H:%M:%S GMT")}


if __name__ == "__main__":
    main()
