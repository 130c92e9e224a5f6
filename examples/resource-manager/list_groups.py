"""Lists the resource groups of a subscription with azure-mgmt-resource, as the machine's identity.

    python list_groups.py SUBSCRIPTION_ID [ENDPOINT]

ENDPOINT is https://management.azure.com unless it is said. Tokens are for that resource whatever
the endpoint is.
"""

import sys

from azure.identity import ManagedIdentityCredential
from azure.mgmt.resource.resources import ResourceManagementClient

AZURE = "https://management.azure.com"


def main():
    with ManagedIdentityCredential() as credential:
        for name in list_groups(credential, *sys.argv[1:]):
            print(name)


def list_groups(credential, subscription_id, endpoint=AZURE):
    # One try: what is refused stays refused.
    with ResourceManagementClient(
        credential,
        subscription_id,
        base_url=endpoint,
        credential_scopes=[f"{AZURE}/.default"],
        retry_total=0,
    ) as client:
        return [group.name for group in client.resource_groups.list()]


if __name__ == "__main__":
    main()
