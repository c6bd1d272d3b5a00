"""Where the authorization server is: every address follows from that of the FHIR API.

https://hl7.org/fhir/smart-app-launch/STU2.2/conformance.html
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from app.config import loopback


@dataclass(frozen=True, slots=True)
class Places:
    """The addresses of one server: `base` of its FHIR API, `root` of all the rest.

    The root is the issuer of id_tokens; `root_path` is its path, "" for that of the host.
    """

    base: str
    root: str
    root_path: str

    @property
    def authorize(self) -> str:
        """Where a person lets an application in."""
        return f"{self.root}/oauth/authorize"

    @property
    def token(self) -> str:
        """Where clients get tokens; the audience of their assertions."""
        return f"{self.root}/oauth/token"

    @property
    def introspect(self) -> str:
        """Where one learns what a token is."""
        return f"{self.root}/oauth/introspect"

    @property
    def revoke(self) -> str:
        """Where a client gives a token back."""
        return f"{self.root}/oauth/revoke"

    @property
    def jwks(self) -> str:
        """Where the keys are that id_tokens are signed with."""
        return f"{self.root}/oauth/jwks"

    @property
    def security(self) -> dict[str, str]:
        """The addresses by the names of the extension oauth-uris of a CapabilityStatement."""
        return {
            "token": self.token,
            "authorize": self.authorize,
            "introspect": self.introspect,
            "revoke": self.revoke,
        }

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the server, so that clients may be on it too."""
        return loopback(urlsplit(self.base).hostname or "")


def places(base_url: str) -> Places:
    """Return the addresses of a server whose FHIR API is at `base_url`."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").rpartition("/")[0]
    return Places(base_url, f"{parts.scheme}://{parts.netloc}{path}", path)
