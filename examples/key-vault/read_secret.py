"""Reads a secret from Key Vault, as the first thing that a service does; see README.md.

    python read_secret.py VAULT_URL SECRET_NAME [--stand-in]

There is no secret here and none in the environment. Who may read the vault is decided by the
machine's identity, whose tokens come from Foretoken.
"""

import argparse

from azure.identity import ManagedIdentityCredential
from azure.keyvault.secrets import SecretClient


def main():
    parser = argparse.ArgumentParser(description="Reads a secret from Key Vault.")
    parser.add_argument("vault_url")
    parser.add_argument("name")
    parser.add_argument(
        "--stand-in",
        action="store_true",
        help="the vault is a stand-in at another address than https://NAME.vault.azure.net",
    )
    asked = parser.parse_args()
    with ManagedIdentityCredential() as credential:
        secret = read_secret(asked.vault_url, asked.name, credential, asked.stand_in)
    # This is where a service would open its database. We only tell that it could.
    print(f"{secret.name}: version {secret.properties.version}, {len(secret.value)} characters")


def read_secret(vault_url, name, credential, stand_in=False):
    # A vault's first answer is 401 and names the resource to ask a token for. The client insists
    # that this is the vault's own domain, so that nobody else can ask it for tokens of Key Vault.
    # A stand-in on this machine cannot have that domain: for it, and only for it, that is left out.
    with SecretClient(vault_url, credential, verify_challenge_resource=not stand_in) as client:
        return client.get_secret(name)


if __name__ == "__main__":
    main()
