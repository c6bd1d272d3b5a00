"""The page that shows the OpenAPI document to people: Swagger UI, from a public network of copies.

https://www.w3.org/TR/SRI/

The page shares its origin with those where people sign in, and a script could press their buttons.
So no script runs in it but the two that are known by their hash, whoever serves them.
"""

import base64
import hashlib

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

COPIES = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.17.14"
SCRIPT = "sha384-wmyclcVGX/WhUkdkATwhaK1X1JtiNrr2EoYJ+diV3vj4v6OC5yCeSu+yW13SYJep"
STYLE = "sha384-wxLW6kwyHktdDGr6Pv1zgm/VGJh99lfUbzSn6HNHBENZlCN7W602k9VkGdxuFvPn"
START = 'SwaggerUIBundle({url: "/openapi.json", dom_id: "#ui", docExpansion: "none"})'
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Milepost API</title>
<link rel="stylesheet" href="{COPIES}/swagger-ui.css" integrity="{STYLE}" crossorigin="anonymous">
</head>
<body>
<div id="ui"></div>
<noscript><p>This page needs JavaScript. The document is at
<a href="/openapi.json">/openapi.json</a>.</p></noscript>
<script src="{COPIES}/swagger-ui-bundle.js" integrity="{SCRIPT}" crossorigin="anonymous"></script>
<script>{START}</script>
</body>
</html>
"""
OWN = base64.b64encode(hashlib.sha256(START.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; script-src {COPIES}/swagger-ui-bundle.js 'sha256-{OWN}';"
    f" style-src {COPIES}/swagger-ui.css 'unsafe-inline'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

router = APIRouter()


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    """Show the OpenAPI document."""
    return HTMLResponse(PAGE, headers=HEADERS)
