"""Gets tokens with stock clients and verifies each; run by `run`, once for each process of clients.

Knows nothing of Foretoken: the clients find it by AZURE_POD_IDENTITY_AUTHORITY_HOST. The file named
by the only argument says how to verify tokens: {"issuer", "jwks", "identities"}. Prints one JSON
object for each check: {"name", "error"}, the error null if it passed. Never prints a token.
"""

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path

import azure.identity
import azure.identity.aio
import msal
import requests
from verify import read_keys, verify

RESOURCES = [
    "https://management.azure.com",
    "https://vault.azure.net",
    "https://storage.azure.com",
    "https://database.windows.net/",
    "https://datalake.azure.net",
    "api://ledger",
]
SELECTORS = ["system", "client_id", "object_id", "resource_id"]
# DefaultAzureCredential takes a client id and no other selector.
DEFAULT_SELECTORS = SELECTORS[:2]

# The oldest version sends the names in identity_config as they are, as every aio client does.
OLDEST = azure.identity.__version__ == "1.7.1"


def main():
    known = json.loads(Path(sys.argv[1]).read_text())
    keys = read_keys(known)
    failed = False
    for name, selector, resource, get in checks(known["identities"]["billing"]):
        error = None
        try:
            token, expires_on = get()
            holder = known["identities"]["system" if selector == "system" else "billing"]
            verify(token, expires_on, holder, resource, known, keys)
        except Exception as caught:  # whatever a client raises is the result of its check
            error = f"{type(caught).__name__}: {caught}"
            failed = True
        print(json.dumps({"name": name, "error": error}), flush=True)
    sys.exit(failed)


def checks(user):
    """Each check: its name, selector, resource, and how to get (token, expiry)."""
    clients = [
        ("ManagedIdentityCredential", SELECTORS, sync_client(managed, False)),
        ("aio.ManagedIdentityCredential", SELECTORS, aio_client(managed, True)),
        ("DefaultAzureCredential", DEFAULT_SELECTORS, sync_client(default, False)),
        ("aio.DefaultAzureCredential", DEFAULT_SELECTORS, aio_client(default, True)),
    ]
    library = f"azure-identity {azure.identity.__version__}"
    clients = [(f"{library} {name}", selectors, get) for name, selectors, get in clients]
    if not OLDEST:  # the same msal stands below both
        clients.append((f"msal {msal.__version__}", SELECTORS, msal_client))
    for client, selectors, get in clients:
        for selector in selectors:
            for resource in RESOURCES:
                name = f"{client} {selector} {resource}"
                yield name, selector, resource, partial(get, selector, user, resource)


def managed(module, selector, user, raw_names):
    if selector == "system":
        return module.ManagedIdentityCredential()
    if selector == "client_id":
        return module.ManagedIdentityCredential(client_id=user["client_id"])
    name = "msi_res_id" if selector == "resource_id" and raw_names else selector
    return module.ManagedIdentityCredential(identity_config={name: user[selector]})


def default(module, selector, user, _raw_names):
    if selector == "system":
        return module.DefaultAzureCredential()
    return module.DefaultAzureCredential(managed_identity_client_id=user["client_id"])


def sync_client(make, raw_names):
    def get(selector, user, resource):
        with make(azure.identity, selector, user, raw_names or OLDEST) as credential:
            return credential.get_token(f"{resource}/.default")

    return get


def aio_client(make, raw_names):
    async def ask(selector, user, resource):
        async with make(azure.identity.aio, selector, user, raw_names) as credential:
            return await credential.get_token(f"{resource}/.default")

    return lambda *asked: asyncio.run(ask(*asked))


def msal_client(selector, user, resource):
    if selector == "system":
        identity = msal.SystemAssignedManagedIdentity()
    else:
        identity = msal.UserAssignedManagedIdentity(**{selector: user[selector]})
    with requests.Session() as session:
        client = msal.ManagedIdentityClient(identity, http_client=session)
        answer = client.acquire_token_for_client(resource=resource)
    if "access_token" not in answer:
        raise AssertionError(f"no token: {answer}")
    return answer["access_token"], int(time.time()) + answer["expires_in"]


if __name__ == "__main__":
    main()
