"""The REST interface as R4's http.html describes it, over HTTP and on both engines."""
