"""The one door: every request is an Interaction, and every answer a Reply.

`door` is where a request comes in, `reading`, `writing` and `transactions` perform it, `server` is
what all of them know.
"""

from app.fhir.rest.door import handle, recorded
from app.fhir.rest.server import Server, refusal

__all__ = ["Server", "handle", "recorded", "refusal"]
