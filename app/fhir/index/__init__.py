"""What the search index holds of a resource: its rows, the patients it is about, when it happened.

https://hl7.org/fhir/R4/search.html
https://hl7.org/fhir/R4/compartmentdefinition.html

`converters` knows how a value of each datatype becomes rows, `extraction` how the expressions of
the search parameters become one function per type, `texts` what the words of a resource are,
`indexer` what the rows of a resource say.

Rule 1: rows are symbolic. They hold parameter codes, systems and ids as text; the store knows the
numbers that stand for them. Rule 2: no column is None and no text is longer than an index entry
may be (`values.bounded`, NORM_LENGTH). Rule 3: total. Validation comes before, so a value that is
broken all the same loses its own row and raises nothing.
"""

from app.fhir.index.extraction import resolve
from app.fhir.index.indexer import OTHER_REFERENCES, Coded, Indexer, ParameterRows, Rows

# Which rows a resource has: raised whenever an unchanged resource would have others, because then
# what is stored has to be indexed anew (`milepost reindex`)
EXTRACTOR = 5

__all__ = [
    "EXTRACTOR",
    "OTHER_REFERENCES",
    "Coded",
    "Indexer",
    "ParameterRows",
    "Rows",
    "resolve",
]
