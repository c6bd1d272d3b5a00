"""A second search, slow and simple, to check the first one by.

It holds a small world in memory and asks every resource for every criterion, with the official
expressions evaluated by a FHIRPath library and the rules of search.html written once more from the
page. Rule: nothing here imports what it checks (`app.fhir.index`, `path`, `query`, `sql`, `store`,
`values`); of the application it reads only the official definitions.
"""
