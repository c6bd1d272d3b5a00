"""What an application can find out before it has a token: where to go, and what works there.

https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html#metadata
https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata
https://www.rfc-editor.org/rfc/rfc8414#section-2

Rule: nothing is listed that a test has not shown to work.
"""

from typing import Any

from app.api.smart.keys import ALGORITHMS
from app.api.smart.places import Places

Json = dict[str, Any]

GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")
SECRET_METHODS = ("client_secret_basic", "client_secret_post")
METHODS = ("private_key_jwt", *SECRET_METHODS)

CAPABILITIES = (
    "launch-ehr",
    "launch-standalone",
    "authorize-post",
    "client-public",
    "client-confidential-symmetric",
    "client-confidential-asymmetric",
    "sso-openid-connect",
    "context-passthrough-banner",
    "context-passthrough-style",
    "context-ehr-patient",
    "context-ehr-encounter",
    "context-standalone-patient",
    "permission-offline",
    "permission-online",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
)
SCOPES = (
    "openid",
    "fhirUser",
    "launch",
    "launch/patient",
    "offline_access",
    "online_access",
    "patient/*.cruds",
    "user/*.cruds",
    "system/*.cruds",
    "patient/*.read",
    "patient/*.write",
    "user/*.read",
    "user/*.write",
    "system/*.read",
    "system/*.write",
)


def shared(places: Places) -> Json:
    """Return what each of the documents says."""
    return {
        "issuer": places.root,
        "jwks_uri": places.jwks,
        "authorization_endpoint": places.authorize,
        "token_endpoint": places.token,
        "introspection_endpoint": places.introspect,
        "revocation_endpoint": places.revoke,
        "grant_types_supported": GRANT_TYPES,
        "scopes_supported": SCOPES,
        "response_types_supported": ("code",),
        "code_challenge_methods_supported": ("S256",),
        "token_endpoint_auth_methods_supported": (*METHODS, "none"),
        "token_endpoint_auth_signing_alg_values_supported": tuple(ALGORITHMS),
    }


def smart_configuration(places: Places) -> Json:
    """Return `[base]/.well-known/smart-configuration`."""
    return {**shared(places), "capabilities": CAPABILITIES}


def openid_configuration(places: Places) -> Json:
    """Return `{root}/.well-known/openid-configuration`, which is the one of RFC 8414 too."""
    known = (*METHODS,)
    return {
        **shared(places),
        "response_modes_supported": ("query",),
        "subject_types_supported": ("public",),
        "id_token_signing_alg_values_supported": ("RS256",),
        "claims_supported": ("iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "fhirUser"),
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
        "authorization_response_iss_parameter_supported": True,
        "introspection_endpoint_auth_methods_supported": known,
        "introspection_endpoint_auth_signing_alg_values_supported": tuple(ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": (*known, "none"),
        "revocation_endpoint_auth_signing_alg_values_supported": tuple(ALGORITHMS),
    }
