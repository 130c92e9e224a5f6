"""An access token for SQL Database, as Microsoft's ODBC driver takes it; see README.md.

    python access_token.py

Shows that the attribute can be made. It prints the attribute's number and length, and never the
token.
"""

import struct

from azure.identity import ManagedIdentityCredential

# The slash at the end belongs to the resource: the scope is the resource and `/.default`.
SCOPE = "https://database.windows.net/" + "/.default"

# The number of the attribute, from the driver's msodbcsql.h.
SQL_COPT_SS_ACCESS_TOKEN = 1256


def main():
    with ManagedIdentityCredential() as credential:
        for number, value in connect_attributes(credential).items():
            print(f"attribute {number}: {len(value)} bytes")


def connect_attributes(credential):
    """What to give to `pyodbc.connect` as `attrs_before`."""
    return {SQL_COPT_SS_ACCESS_TOKEN: pack(credential.get_token(SCOPE).token)}


def pack(token):
    """The driver's ACCESSTOKEN structure: a length of four bytes, then the token in UTF-16-LE."""
    text = token.encode("utf-16-le")
    return struct.pack(f"<I{len(text)}s", len(text), text)


if __name__ == "__main__":
    main()
