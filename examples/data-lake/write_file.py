"""Writes a file in Data Lake Storage and reads it back, as the machine's identity.

    python write_file.py ACCOUNT_URL FILE_SYSTEM PATH TEXT

The file system has to be there. The text that was read is printed.
"""

import sys

from azure.identity import ManagedIdentityCredential
from azure.storage.filedatalake import DataLakeServiceClient


def main():
    with ManagedIdentityCredential() as credential:
        print(write_and_read(credential, *sys.argv[1:]))


def write_and_read(credential, account_url, file_system, path, text):
    # One try: what is refused stays refused.
    with DataLakeServiceClient(account_url, credential, retry_total=0) as account:
        file = account.get_file_client(file_system, path)
        file.upload_data(text.encode(), overwrite=True)
        return file.download_file(encoding="utf-8").readall()


if __name__ == "__main__":
    main()
