"""The pages that people see: sign in, choose a patient, decide what an app gets, sign out.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html

`routes` is their order, `consent` what is decided, `patients` who is chosen, `sessions` who sits in
front of the browser, `words` what scopes mean, `document` how a page travels. What an authorization
request may ask is `smart`'s to say: it is checked anew at each step, because nothing about it is
kept between them but what the form of the page sends back.
"""

from app.api.page.routes import router

__all__ = ["router"]
