"""Writes a blob and reads it back with azure-storage-blob, as the machine's identity.

    python blob.py ACCOUNT_URL CONTAINER BLOB [TEXT]

With a text it is written first, into a container that is made if it is missing. The text that was
read is printed. There is no account key, connection string or shared access signature.
"""

import sys
from contextlib import suppress

from azure.core.exceptions import ResourceExistsError
from azure.identity import ManagedIdentityCredential
from azure.storage.blob import BlobServiceClient


def main():
    account_url, container, blob, *text = sys.argv[1:]
    with ManagedIdentityCredential() as credential:
        print(write_and_read(account_url, credential, container, blob, *text))


def write_and_read(account_url, credential, container, blob, text=None):
    # One try: what is refused stays refused.
    with BlobServiceClient(account_url, credential, retry_total=0) as account:
        folder = account.get_container_client(container)
        if text is not None:
            with suppress(ResourceExistsError):
                folder.create_container()
            folder.upload_blob(blob, text, overwrite=True)
        return folder.download_blob(blob, encoding="utf-8").readall()


if __name__ == "__main__":
    main()
