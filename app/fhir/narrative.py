"""The XHTML of a narrative: what it may hold.

https://hl7.org/fhir/R4/narrative.html#xhtml (invariants txt-1 and txt-2)

Rule 1: a page that shows a narrative must be able to trust it, so what is not allowed is refused.
Rule 2: entities are never expanded: a document type is refused before the parser acts on it.
Rule 3: it is read as XML here, and as HTML by a page that puts it in: what only one of them sees is
refused.
"""

import re
from xml.parsers import expat

NAMESPACE = "http://www.w3.org/1999/xhtml"

XML = "http://www.w3.org/XML/1998/namespace"

# The elements and attributes that the XPath of txt-1 lists; xml:lang and xml:space beside them
TAGS = """
    a abbr acronym b big blockquote br caption cite code col colgroup dd dfn div dl dt em h1 h2 h3
    h4 h5 h6 hr i img li ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr
    tt ul var
"""
# Elements inside of a word: `<b>m</b>g` is one
WITHIN = "a abbr acronym b big cite code dfn em i q samp small span strong sub sup tt var"
NAMES = """
    abbr accesskey align alt axis bgcolor border cellhalign cellpadding cellspacing cellvalign char
    charoff charset cite class colspan compact coords dir frame headers height href hreflang hspace
    id lang longdesc name nowrap rel rev rowspan rules scope shape span src start style summary
    tabindex title type valign value vspace width
"""
ELEMENTS = frozenset(f"{NAMESPACE} {tag}" for tag in TAGS.split())
INLINE = frozenset(f"{NAMESPACE} {tag}" for tag in WITHIN.split())
ATTRIBUTES = frozenset({*NAMES.split(), f"{XML} lang", f"{XML} space"})
DIV = f"{NAMESPACE} div"
IMAGE = f"{NAMESPACE} img"

# Where an attribute may lead; to a relative address anyway. A browser runs what some schemes hold
# (javascript, vbscript, data, blob) and hands others to programs, so those that are known to be
# harmless are named. White space and controls are skipped by browsers, so here too
SKIPPED = re.compile(r"[\x00-\x20\x7f-\xa0]+")
SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
OF_DOCUMENTS = frozenset({"http", "https", "urn"})
SCHEMES = {
    "href": OF_DOCUMENTS | {"ftp", "mailto", "tel"},
    "src": OF_DOCUMENTS | {"cid"},
    "cite": OF_DOCUMENTS,
    "longdesc": OF_DOCUMENTS,
}
# A picture may be its own address: in an img it runs nothing, not even as SVG
PICTURE = re.compile(r"data:image/(png|gif|jpeg|webp|svg\+xml)[;,]", re.IGNORECASE)

# What old style sheets could call; comments and escapes hide words from us, not from a browser
ACTIVE_STYLE = re.compile(
    r"expression\(|javascript:|vbscript:|@import|behavior:|-moz-binding", re.IGNORECASE
)
STYLE_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
STYLE_ESCAPE = re.compile(r"\\(?:([0-9a-f]{1,6})\s?|(.))", re.IGNORECASE | re.DOTALL)


# Most narratives that programs write: nothing in the div but text, which needs no parser
PLAIN = re.compile(rf'<div xmlns="{NAMESPACE}">[^<&>\x00-\x1f\ufffe\uffff]+</div>')


class Refusal(Exception):
    """Why a document is not read further; its text says what is wrong."""


def flaws(div: str) -> list[str]:
    """Return what a narrative's `div` breaks of narrative.html#xhtml; empty for a proper one."""
    if PLAIN.fullmatch(div) and not div[42:-6].isspace():
        return []
    reader = Reader()
    try:
        reader.parser.Parse(div, True)
    except expat.ExpatError:
        return ["The narrative is not well-formed XHTML"]
    except (Refusal, UnicodeEncodeError) as refusal:
        return [str(refusal) if isinstance(refusal, Refusal) else "The narrative is not Unicode"]
    finally:
        del reader.parser  # refers back to its reader: a long text would wait for the collector
    if not reader.content:
        reader.flaws["The narrative has no content but white space"] = None
    return list(reader.flaws)


def text(div: str) -> str:
    """Return the text that a narrative's `div` shows; "" where it is not well-formed."""
    if PLAIN.fullmatch(div):
        return div[42:-6]
    parts: list[str] = []

    def element(name: str, _: object = None) -> None:
        if name not in INLINE:
            parts.append(" ")

    def refuse(*_: object) -> None:
        raise Refusal

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = parser.EndElementHandler = element
    parser.CharacterDataHandler = parts.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(div, True)
    except (expat.ExpatError, Refusal, UnicodeEncodeError):
        return ""
    return "".join(parts)


class Reader:
    """One pass over a narrative: it notes the flaws, each once, and whether there is content."""

    def __init__(self) -> None:
        self.flaws: dict[str, None] = {}
        self.content = False
        self.inside = False
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartElementHandler = self.element
        parser.CharacterDataHandler = self.text
        parser.StartDoctypeDeclHandler = self.doctype
        parser.ProcessingInstructionHandler = self.instruction
        parser.XmlDeclHandler = self.instruction
        parser.StartCdataSectionHandler = self.section
        parser.CommentHandler = self.comment
        self.parser = parser

    def element(self, name: str, attributes: dict[str, str]) -> None:
        """Check one element and its attributes; the first must be the div."""
        if not self.inside:
            self.inside = True
            if name != DIV:
                raise Refusal("The narrative must be one div element of the XHTML namespace")
        if name not in ELEMENTS:
            self.flaws[f"The narrative must not contain the element {local(name)}"] = None
        for key, value in attributes.items():
            if key not in ATTRIBUTES:
                self.flaws[f"The narrative must not use the attribute {local(key)}"] = None
            elif active(key, value):
                self.flaws[f"The narrative must not be active: {local(key)}"] = None
        if name == IMAGE and "src" in attributes:
            self.content = True

    def text(self, text: str) -> None:
        """Note that there is something to read."""
        if not self.content and not text.isspace():
            self.content = True

    def doctype(self, *_: object) -> None:
        """Refuse a document type, and with it every entity."""
        raise Refusal("The narrative must not have a document type or entities")

    def instruction(self, *_: object) -> None:
        """Refuse a processing instruction."""
        raise Refusal("The narrative must not have processing instructions")

    def section(self) -> None:
        """Refuse a CDATA section: to HTML it is a comment that ends at the first `>`."""
        raise Refusal("The narrative must not have CDATA sections")

    def comment(self, text: str) -> None:
        """Refuse a comment that ends sooner in HTML than in XML; what follows would be read."""
        if text.startswith((">", "->")):
            raise Refusal("The narrative must not have comments that begin with > or ->")


def local(name: str) -> str:
    """Return a name without its namespace."""
    return name.rpartition(" ")[2]


def active(attribute: str, value: str) -> bool:
    """Return whether a browser might run what an attribute says, or where it leads."""
    if attribute in SCHEMES:
        link = SKIPPED.sub("", value)
        scheme = SCHEME.match(link)
        if scheme is None or scheme[1].lower() in SCHEMES[attribute]:
            return False
        return attribute != "src" or not PICTURE.match(link)
    if attribute != "style":
        return False
    return ACTIVE_STYLE.search(SKIPPED.sub("", as_read(value))) is not None


def as_read(style: str) -> str:
    """Return a style as a browser reads it: without comments, and with its escapes undone."""

    def character(found: re.Match[str]) -> str:
        code = int(found[1], 16) if found[1] else 0
        return chr(code) if 0 < code < 0x110000 else found[2] or ""

    return STYLE_ESCAPE.sub(character, STYLE_COMMENT.sub("", style))
