"""One Python client, asked for tokens; run by doors.py, which verifies what it says.

Arguments: the client, and a JSON list of {"selector", "id", "resource"}. Prints one JSON object for
each: {"token", "expires_on"} or {"error"}. Standard output has to be a pipe: tokens go there.
"""

import asyncio
import json
import sys
import time


def main():
    client = CLIENTS[sys.argv[1]]
    for ask in json.loads(sys.argv[2]):
        try:
            token, expires_on = client(**ask)
            answer = {"token": token, "expires_on": expires_on}
        except Exception as caught:  # whatever a client raises is its answer
            answer = {"error": f"{type(caught).__name__}: {caught}"}
        print(json.dumps(answer), flush=True)


def options(selector, id, names):
    """How azure-identity is told of an identity; `names` are those it takes in identity_config."""
    if selector == "system":
        return {}
    if selector == "client_id":
        return {"client_id": id}
    return {"identity_config": {names.get(selector, selector): id}}


def azure_identity(selector, id, resource):
    import azure.identity

    # The oldest sends the names as they are.
    names = {"resource_id": "msi_res_id"} if azure.identity.__version__ == "1.7.1" else {}
    with azure.identity.ManagedIdentityCredential(**options(selector, id, names)) as credential:
        return credential.get_token(f"{resource}/.default")


def azure_identity_aio(selector, id, resource):
    import azure.identity.aio

    async def ask():
        made = azure.identity.aio.ManagedIdentityCredential(
            **options(selector, id, {"resource_id": "mi_res_id"})
        )
        async with made as credential:
            return await credential.get_token(f"{resource}/.default")

    return asyncio.run(ask())


def default(selector, id, resource):
    import azure.identity

    with azure.identity.DefaultAzureCredential(managed_identity_client_id=id) as credential:
        return credential.get_token(f"{resource}/.default")


def msal(selector, id, resource):
    import msal
    import requests

    if selector == "system":
        identity = msal.SystemAssignedManagedIdentity()
    else:
        identity = msal.UserAssignedManagedIdentity(**{selector: id})
    with requests.Session() as session:
        client = msal.ManagedIdentityClient(identity, http_client=session)
        answer = client.acquire_token_for_client(resource=resource)
    if "access_token" not in answer:
        raise AssertionError(f"no token: {answer}")
    return answer["access_token"], int(time.time()) + answer["expires_in"]


def msrestazure(selector, id, resource):
    from msrestazure.azure_active_directory import MSIAuthentication

    name = {"resource_id": "msi_res_id"}.get(selector, selector)
    credentials = MSIAuthentication(resource=resource, **({} if id is None else {name: id}))
    credentials.set_token()
    return credentials.token["access_token"], int(credentials.token["expires_on"])


CLIENTS = {
    "azure-identity": azure_identity,
    "azure-identity aio": azure_identity_aio,
    "azure-identity default": default,
    "msal": msal,
    "msrestazure": msrestazure,
}

if __name__ == "__main__":
    main()
