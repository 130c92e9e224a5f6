"""What a resource does with a token: its signature, its claims, and whose they are."""

import jwt

# A client may count the expiry from the seconds left, on a clock between two ticks.
TICK_S = 1


def read_keys(known):
    return {key.key_id: key for key in jwt.PyJWKSet.from_dict(known["jwks"]).keys}


def verify(token, expires_on, holder, resource, known, keys):
    """Fails unless the token is of this holder for this resource, and the client knows its expiry.

    Without `expires_on` there is no expiry to compare: the client tells none.
    """
    claims = jwt.decode(
        token,
        keys[jwt.get_unverified_header(token)["kid"]],
        algorithms=["RS256"],
        audience=resource,
        issuer=known["issuer"],
        leeway=0,
        options={"require": ["exp", "nbf", "aud", "iss"], "strict_aud": True},
    )
    expect("appid", claims["appid"].lower(), holder["client_id"])
    expect("oid", claims["oid"].lower(), holder["object_id"])
    if "resource_id" in holder:
        expect("xms_mirid", claims["xms_mirid"].lower(), holder["resource_id"].lower())
    expect("roles", claims.get("roles", []), holder.get("roles", {}).get(resource, []))
    if expires_on is not None and abs(expires_on - claims["exp"]) > TICK_S:
        raise AssertionError(f"the client is {expires_on - claims['exp']} s off the expiry")


def expect(what, found, wanted):
    if found != wanted:
        raise AssertionError(f"{what} is {found!r}, not {wanted!r}")
