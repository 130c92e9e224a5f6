#!/usr/bin/env python3
"""Sealed records, written by another hand than src/store: prints records.json.

Needs the package `cryptography`. The layouts are those of the head of src/store/mod.rs and of
src/store/record.rs; format 1 named no key and was bound to no machine.
"""

import hashlib
import hmac
import json
import struct

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MASTER = bytes(range(1, 33))
SALT = b"\x5a" * 32
NONCE = b"\x0b" * 12
MACHINE_ID = "0123456789abcdef0123456789abcdef"
PRODUCT_UUID = "4c4c4544-0042-3510-8053-b4c04f503132"
GENERATION = 7
TOKEN = "header.payload.signature"
RESOURCE = "https://vault.azure.net"


def expand(key, info, length):
    """HKDF-Expand of RFC 5869 with SHA-256."""
    out, block, count = b"", b"", 0
    while len(out) < length:
        count += 1
        block = hmac.new(key, block + info + bytes([count]), hashlib.sha256).digest()
        out += block
    return out[:length]


def text(value):
    raw = value.encode()
    return struct.pack(">I", len(raw)) + raw


def token_key():
    out = text("imds http://169.254.169.254") + b"\x00" + text("") + text(RESOURCE)
    out += struct.pack(">I", 0) + struct.pack(">I", 0)
    return out + b"\x00" + text("")


def record():
    key = token_key()
    out = struct.pack(">I", len(key)) + key + text(TOKEN)
    out += struct.pack(">QQ", 1_000_000, 5_000)  # received (ms), ends (s)
    out += b"\x01" + struct.pack(">Q", 900)  # not before (s)
    out += b"\x00"  # refresh in
    out += b"\x01" + text("some-client")
    return out + struct.pack(">Q", 1_500_000)  # last used (ms)


def format_2(binding, fact):
    key_id = expand(MASTER, b"foretoken key id 1", 8)
    names = expand(MASTER, b"foretoken store fingerprint 2", 32)
    name = hmac.new(names, token_key(), hashlib.sha256).digest()[:16]
    info = b"foretoken store record 2" + SALT + bytes([binding]) + fact.encode()
    generation = struct.pack(">Q", GENERATION)
    head = bytes([2, binding]) + key_id + SALT + generation + NONCE
    tied = b"foretoken record" + b"\x02" + key_id + name + generation
    sealed = AESGCM(expand(MASTER, info, 32)).encrypt(NONCE, record(), tied)
    return {"name": name.hex(), "sealed": (head + sealed).hex()}


def format_1():
    names = expand(hmac.new(b"", MASTER, hashlib.sha256).digest(), b"foretoken store fingerprint 1", 32)
    name = hmac.new(names, token_key(), hashlib.sha256).digest()[:16]
    key = expand(hmac.new(SALT, MASTER, hashlib.sha256).digest(), b"foretoken store record 1", 32)
    generation = struct.pack(">Q", GENERATION)
    tied = b"foretoken record" + b"\x01" + name + generation
    sealed = AESGCM(key).encrypt(NONCE, record(), tied)
    return {"name": name.hex(), "sealed": (b"\x01" + SALT + generation + NONCE + sealed).hex()}


def format_3():
    """One that nobody has written yet."""
    return {"name": "03" * 16, "sealed": "03" + "42" * 200}


print(
    json.dumps(
        {
            "master": MASTER.hex(),
            "salt": SALT.hex(),
            "nonce": NONCE.hex(),
            "machine_id": MACHINE_ID,
            "product_uuid": PRODUCT_UUID,
            "generation": GENERATION,
            "token": TOKEN,
            "resource": RESOURCE,
            "format_1": format_1(),
            "format_2_unbound": format_2(0, ""),
            "format_2_machine_id": format_2(1, MACHINE_ID),
            "format_2_product_uuid": format_2(2, PRODUCT_UUID),
            "format_3": format_3(),
        },
        indent=1,
    )
)
