"""The three ways to a token as Authlib leads through them, and what SMART changes in them.

https://www.rfc-editor.org/rfc/rfc6749#section-4.1.3, #section-4.4 and #section-6
https://www.rfc-editor.org/rfc/rfc7636

What they need to know they ask their server, which is an `issuing.Authority`.
"""

from collections.abc import Mapping
from typing import Any

from authlib.oauth2.rfc6749 import (
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import (
    AuthorizationCodeGrant,
    ClientCredentialsGrant,
    RefreshTokenGrant,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7636.challenge import compare_s256_code_challenge

from app.api import grants
from app.api.smart import discovery
from app.api.smart.clients import Known

METHODS = (*discovery.METHODS, "none")


class Asked(OAuth2Request):  # type: ignore[misc]
    """A request at one of the endpoints as Authlib takes it: only its form counts.

    Authlib refuses what did not come by https; whether it did is for `milepost serve` to see to,
    which knows the proxies, so it is told an address that it likes.
    """

    def __init__(self, form: Mapping[str, str], headers: Mapping[str, str]) -> None:
        super().__init__("POST", "https://localhost/", headers=headers)
        self.payload = BasicOAuth2Payload(dict(form))

    @property
    def form(self) -> dict[str, str]:
        """The parameters."""
        found: dict[str, str] = self.payload.data
        return found


class Unauthenticated(InvalidClientError):  # type: ignore[misc]
    """A client is not who it says. A 401 only where it used the header that a 401 names."""

    def get_headers(self) -> list[tuple[str, str]]:
        """Return the headers of the answer."""
        return [("WWW-Authenticate", 'Basic realm="Milepost"')] if self.status_code == 401 else []


class Held:
    """A code or a refresh token that somebody has shown, as Authlib asks about it."""

    code_challenge_method = "S256"

    def __init__(self, row: grants.Token) -> None:
        self.row = row
        self.code_challenge = row.context.get("challenge", "")

    def check_client(self, client: Known) -> bool:
        """Return whether it was given to that client."""
        return self.row.client == client.client_id

    def get_redirect_uri(self) -> str:
        """Return where it was sent."""
        return str(self.row.context.get("redirect_uri", ""))

    def get_scope(self) -> str:
        """Return what was granted."""
        return self.row.scope


class Challenge(CodeChallenge):  # type: ignore[misc]
    """PKCE as SMART wants it: by S256 alone, for every client."""

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD = ("S256",)
    CODE_CHALLENGE_METHODS = {"S256": compare_s256_code_challenge}  # noqa: RUF012

    def validate_code_verifier(self, grant: Any, result: Any) -> None:
        """Raise an OAuth error unless the verifier is the one that was hashed."""
        if grant.request.form.get("code_challenge_method", "S256") != "S256":
            raise InvalidRequestError("code_challenge_method has to be S256")
        if not grant.request.authorization_code.code_challenge:  # Authlib would let it pass
            raise InvalidRequestError("The code was made without a code_challenge")
        super().validate_code_verifier(grant, result)


class Code(AuthorizationCodeGrant):  # type: ignore[misc]
    """A code for tokens."""

    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    def query_authorization_code(self, code: str, client: Known) -> Held | None:
        """Return the code; one that was used before takes back what it gave."""
        found: Held | None = self.server.held(code, "code", client)
        return found

    def authenticate_user(self, held: Held) -> grants.Account:
        """Return who let the application in."""
        account: grants.Account = self.server.account(held)
        return account

    def delete_authorization_code(self, _: Held) -> None:
        """Do nothing: it is gone since its tokens were issued."""


class Refresh(RefreshTokenGrant):  # type: ignore[misc]
    """A refresh token for new tokens, and a new refresh token."""

    TOKEN_ENDPOINT_AUTH_METHODS = METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, secret: str) -> Held | None:
        """Return the token; one that was used before ends all that came of the authorization."""
        found: Held | None = self.server.held(secret, "refresh", self.request.client)
        return found

    def _validate_token_scope(self, held: Held) -> None:
        """Raise an OAuth error unless each scope that is asked for was granted before."""
        text = self.request.payload.scope
        if text and not self.server.within(text, held.get_scope()):
            raise InvalidScopeError("A refresh cannot ask for more than was granted")

    def authenticate_user(self, held: Held) -> grants.Account:
        """Return who let the application in."""
        account: grants.Account = self.server.account(held)
        return account

    def revoke_old_credential(self, _: Held) -> None:
        """Do nothing: it is gone since the new ones were issued."""


class Backend(ClientCredentialsGrant):  # type: ignore[misc]
    """A token for a client that acts for itself."""

    TOKEN_ENDPOINT_AUTH_METHODS = discovery.METHODS
