"""The authorization server: SMART App Launch, Backend Services, OAuth 2.0 and OpenID Connect.

https://hl7.org/fhir/smart-app-launch/STU2.2/
https://www.rfc-editor.org/rfc/rfc9700 (best current practice)

`routes` are the endpoints that programs talk to, `authorizing` the functions for the pages where
people decide, `origins` says which pages of others may call. Authlib leads through the grants:
`flows` is what it calls, `issuing` what is handed out.
"""

from app.api.smart.authorizing import Refused, Requested, caller_of, granted, refusal, requested
from app.api.smart.origins import Origins
from app.api.smart.places import Places, places
from app.api.smart.routes import router

__all__ = [
    "Origins",
    "Places",
    "Refused",
    "Requested",
    "caller_of",
    "granted",
    "places",
    "refusal",
    "requested",
    "router",
]
