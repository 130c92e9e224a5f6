"""Stock clients with tokens that are wrong in one way, at the services; run by `run`.

The only argument is a JSON file that says where everything is. Prints one JSON object for each
check: {"name", "error"}, the error null if it passed. Never prints a token.

A wrong token is a genuine one, from Foretoken, with one claim changed and signed again with the
emulator's published key, so that nothing else is wrong with it. Signed again without a change it
has to be accepted; else a refusal would prove nothing.
"""

import json
import os
import ssl
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jwt
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.identity import ManagedIdentityCredential
from cryptography.hazmat.primitives.asymmetric import rsa
from stand_in import Verifier

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
VAULT = "https://vault.azure.net"
STORAGE = "https://storage.azure.com"
MANAGEMENT = "https://management.azure.com"
DATABASE = "https://database.windows.net/"
ACCEPTED = "accepted"
HOUR_S = 3600
TIMEOUT_S = 30


def main():
    settings = json.loads(Path(sys.argv[1]).read_text())
    failed = False
    for name, check in checks(settings):
        error = None
        try:
            check()
        except Exception as caught:  # whatever a client raises is the result of its check
            error = f"{type(caught).__name__}: {caught}"
            failed = True
        print(json.dumps({"name": name, "error": error}), flush=True)
    sys.exit(failed)


def checks(settings):
    """Each check: its name, and what raises if it fails."""
    wrong = WrongTokens(Path(settings["published_key"]).read_text())
    for service in services(settings):
        for flaw, token, reason in wrong.of(service):
            name = f"{service.name}: {flaw}"
            if reason == ACCEPTED:
                yield f"{name} is accepted", partial(service.use, token)
            else:
                yield f"{name} is refused", partial(refused, service, token, reason)
    yield "object_store: a token of another audience is refused", partial(object_store, settings)
    yield "Key Vault: the secret is the vault's", partial(secret, settings)
    yield "Key Vault: a vault of another domain gets no token", partial(domain, settings)
    yield "SQL Database: the attribute holds a good token", partial(database, settings)
    yield "SQL Database: the slash is part of the audience", partial(slash, settings)


class Service:
    """A service: what its tokens are for, how a client uses one, and how it words refusals.

    `url` is where a plain request without a token is refused; there may be none.
    """

    # The reasons of PyJWT.
    reasons = {
        "no token": "no bearer token",
        "expired": "ExpiredSignatureError",
        "not valid yet": "ImmatureSignatureError",
        "of another audience": "InvalidAudienceError",
        "of another issuer": "InvalidIssuerError",
        "of another key": "InvalidSignatureError",
        "of an unknown key": "InvalidKeyError",
        "with no signature": "InvalidAlgorithmError",
        "without expiry": "MissingRequiredClaimError",
    }
    status = 401

    def __init__(self, name, resource, use, url, client_id=None):
        self.name = name
        self.resource = resource
        self.use = use
        self.url = url
        self.client_id = client_id


class Azurite(Service):
    """It reads tokens and does not check who signed them."""

    reasons = Service.reasons | {
        "no token": "AuthorizationFailure",
        "expired": "Lifetime validation failed. The token is expired.",
        "not valid yet": "Lifetime validation failed.",
        "of another audience": "Invalid token audience.",
        "of another issuer": "Invalid token issuer.",
        "of another key": ACCEPTED,
        "of an unknown key": ACCEPTED,
        "with no signature": ACCEPTED,
        "without expiry": "Authentication scheme Bearer is not supported.",
    }
    status = 403


class OwnApi(Service):
    # The reasons of jsonwebtoken.
    reasons = Service.reasons | {
        "expired": "ExpiredSignature",
        "not valid yet": "ImmatureSignature",
        "of another audience": "InvalidAudience",
        "of another issuer": "InvalidIssuer",
        "of another key": "InvalidSignature",
        "of an unknown key": "the token's key is not one of the issuer's",
        "with no signature": "not a token",
        "without expiry": "exp",
    }


class Database(Service):
    """There is no database: the attribute is taken apart and its token verified."""

    status = None


def services(settings):
    urls = settings["urls"]
    name = settings["secret"]["name"]
    read_secret = example("key-vault/read_secret").read_secret
    list_groups = example("resource-manager/list_groups").list_groups
    write_file = example("data-lake/write_file").write_and_read
    read_blob = example("storage/blob").write_and_read
    pack = example("sql-database/access_token").pack
    verifier = Verifier(settings["discovery"])
    vault, arm, lake = urls["vault"], urls["resource-manager"], urls["data-lake"]
    blobs = urls["blobs"]
    subscription = settings["subscription"]
    api = f"{urls['api']}/whoami"
    return [
        Service(
            "Key Vault",
            VAULT,
            lambda token: read_secret(vault, name, Held(token), stand_in=True),
            f"{vault}/secrets/{name}?api-version=7.6",
        ),
        Service(
            "Resource Manager",
            MANAGEMENT,
            lambda token: list_groups(Held(token), subscription, arm),
            f"{arm}/subscriptions/{subscription}/resourcegroups?api-version=2021-04-01",
        ),
        Service(
            "Data Lake",
            STORAGE,
            lambda token: write_file(Held(token), lake, "lake", "checks.txt", "text"),
            f"{lake}/lake/checks.txt",
        ),
        Azurite(
            "Azurite",
            STORAGE,
            lambda token: read_blob(blobs, Held(token), "box", "rust.txt"),
            f"{blobs}/box/rust.txt",
        ),
        OwnApi(
            "own API",
            settings["api"]["audience"],
            lambda token: call(api, token),
            api,
            settings["api"]["client_id"],
        ),
        Database(
            "SQL Database",
            DATABASE,
            lambda token: verifier.verify(unpack(pack(token)), DATABASE),
            None,
        ),
    ]


class WrongTokens:
    """Makes them, with the key of the emulator and with one that nobody knows."""

    def __init__(self, published):
        self.published = published
        self.foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def of(self, service):
        """Each flaw, a token that has it, and the reason to be refused for."""
        token = genuine(service.resource, service.client_id)
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
        now = int(time.time())

        def sign(key=self.published, kid=header["kid"], algorithm="RS256", **changed):
            kept = {name: it for name, it in {**claims, **changed}.items() if it is not None}
            return jwt.encode(kept, key, algorithm, {"kid": kid})

        yield "signed again", sign(), ACCEPTED
        made = {
            "expired": sign(exp=now - HOUR_S),
            "not valid yet": sign(nbf=now + HOUR_S),
            # Genuine, of the same identity.
            "of another audience": genuine(MANAGEMENT if service.resource == VAULT else VAULT),
            "of another issuer": sign(iss="https://login.example.com/"),
            "of another key": sign(key=self.foreign),
            "of an unknown key": sign(kid="unknown"),
            "with no signature": sign(key=None, algorithm="none"),
            "without expiry": sign(exp=None),
        }
        if service.url is not None:
            made["no token"] = None
        for flaw, token in made.items():
            yield flaw, token, service.reasons[flaw]


def refused(service, token, reason):
    """Fails unless the service refuses the token, for this reason."""
    try:
        if token is None:
            call(service.url, None)
        else:
            service.use(token)
    except HttpResponseError as error:
        status, text = error.status_code, str(error)
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    except jwt.PyJWTError as error:
        status, text = None, type(error).__name__
    else:
        raise AssertionError("it was accepted")
    if status != service.status or reason not in text:
        raise AssertionError(f"{status}, not {service.status}, or not for {reason!r}: {text}")


def object_store(settings):
    """The same at Azurite, by the client in Rust, which takes a ready token too."""
    env = {**os.environ, "AZURE_STORAGE_TOKEN": genuine(VAULT)}
    command = [settings["object_store"], settings["urls"]["blobs"], "box", "rust.txt"]
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode == 0 or "Invalid token audience." not in done.stderr:
        raise AssertionError(f"exit {done.returncode}: {done.stderr}")


def secret(settings):
    wanted = settings["secret"]
    read_secret = example("key-vault/read_secret").read_secret
    with ManagedIdentityCredential() as credential:
        found = read_secret(settings["urls"]["vault"], wanted["name"], credential, stand_in=True)
    if found.value != wanted["value"]:
        raise AssertionError("it is another value")


def domain(settings):
    """Without the option for a stand-in the client keeps its token to itself."""
    read_secret = example("key-vault/read_secret").read_secret
    try:
        read_secret(settings["urls"]["vault"], settings["secret"]["name"], Held("a token"))
    except ValueError as error:
        if "does not match the requested domain" not in str(error):
            raise
    else:
        raise AssertionError("it was sent")


def database(settings):
    connect_attributes = example("sql-database/access_token").connect_attributes
    with ManagedIdentityCredential() as credential:
        attributes = connect_attributes(credential)
    # The number is in the driver's msodbcsql.h, as SQL_COPT_SS_ACCESS_TOKEN.
    if list(attributes) != [1256]:
        raise AssertionError(f"attributes {list(attributes)}")
    Verifier(settings["discovery"]).verify(unpack(attributes[1256]), DATABASE)


def slash(settings):
    try:
        Verifier(settings["discovery"]).verify(genuine(DATABASE), DATABASE.rstrip("/"))
    except jwt.InvalidAudienceError:
        return
    raise AssertionError("it was accepted")


def unpack(attribute):
    """The token, as the driver reads it: four bytes of length, then UTF-16 in little endian."""
    (length,) = struct.unpack_from("<I", attribute)
    if length != len(attribute) - 4:
        raise AssertionError(f"{length} bytes are announced, {len(attribute) - 4} are there")
    return attribute[4:].decode("utf-16-le")


def example(path):
    """An example as a module."""
    spec = spec_from_file_location(path, EXAMPLES / f"{path}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Held:
    """A credential that has this token and no other."""

    def __init__(self, token):
        self.token = token

    def get_token(self, *_scopes, **_options):
        return AccessToken(self.token, int(time.time()) + HOUR_S)


def genuine(resource, client_id=None):
    """A token from Foretoken, by the stock client."""
    with ManagedIdentityCredential(client_id=client_id) as credential:
        return credential.get_token(f"{resource}/.default").token


def call(url, token):
    """A plain call, with a token if there is one."""
    request = urllib.request.Request(url)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    trusted = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)]
    with urllib.request.build_opener(*handlers).open(request, timeout=TIMEOUT_S) as answer:
        return answer.read()


if __name__ == "__main__":
    main()
