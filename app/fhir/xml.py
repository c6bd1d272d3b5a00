"""The XML of resources: from it, and into it. Inside there is JSON alone.

https://hl7.org/fhir/R4/xml.html and https://hl7.org/fhir/R4/json.html

Rule 1: nothing here knows a resource type; the order of elements, what is an attribute, what is a
number in JSON and where a resource or XHTML stands come from the definitions. Rule 2: nothing gets
lost: the digits of a number, the null that pairs a value with its extensions, and every byte of a
narrative. Rule 3: a document type is refused before the parser acts on it, so no entity is ever
expanded and nothing is fetched. Rule 4: no text quotes a value.

Theory of operation. A `Shape` says what may stand in a structure, by JSON key and by XML name; it
is made when first needed. `Writer` walks decoded JSON in the order of the shapes. `Reader` follows
the events of expat with one `Frame` for each open element; what was read of an element goes into
the frame around it when it closes, under its JSON key.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal, NamedTuple
from xml.parsers import expat

import msgspec

from app.fhir.definitions import Definitions, Element, Structure
from app.fhir.errors import FhirError, refused
from app.fhir.narrative import DIV, NAMESPACE, PLAIN
from app.fhir.wire import MAX_DEPTH, Resource, encode

FHIR = "http://hl7.org/fhir"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
ENCODINGS = frozenset({"utf-8", "us-ascii"})  # xml.html: UTF-8 it is

# json.html#primitive: what is no string in JSON
NUMBERS = frozenset({"decimal", "integer", "positiveInt", "unsignedInt"})
NUMBER = re.compile(r"(-|\+(?=[0-9]))?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
BOOLEANS = {"true": True, "false": False}
VALUE = ("id", "value")  # the attributes of a primitive
MOST_NAMESPACES = 100  # in scope; a resource has two

# White space that stood in an attribute as it is would come back as blanks
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
ESCAPES |= {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
SPECIAL = re.compile(r'[&<>"\x00-\x1f\ud800-\udfff\ufffe\uffff]')

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
START_TAG = re.compile(rb"""(<[^\s/>]++)(?:[^"'>]++|"[^"]*+"|'[^']*+')*+>""")
PROLOG = re.compile(r"\A\ufeff?(<\?xml\s[^>]*\?>)?")

Kind = Literal["object", "primitive", "xhtml", "holder", "resource", "attribute"]


class Child(NamedTuple):
    """What may stand in a structure: its JSON `key`, its type, and its `place` in the order.

    `beside` is the JSON key of a primitive's id and extensions. All forms of a choice share their
    place. A `holder` is an element that holds a resource, as contained and Bundle.entry.resource.
    """

    key: str
    beside: str
    type: str
    kind: Kind
    many: bool
    place: int


@dataclass(slots=True)
class Shape:
    """What may stand in a structure: elements by XML name, properties by JSON key."""

    name: str
    elements: dict[str, Child] = field(default_factory=dict)
    keys: dict[str, Child] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    attributes: tuple[str, ...] = ()

    def add(self, child: Child) -> None:
        """Let a child stand in the structure."""
        if child.kind == "attribute":
            self.attributes += (child.key,)
        else:
            space = NAMESPACE if child.kind == "xhtml" else FHIR
            self.elements[f"{space} {child.key}"] = child
        for key in filter(None, (child.key, child.beside)):
            self.keys[key] = child
            self.places[key] = child.place


class Xml:
    """Reads and writes the XML of the resources that `definitions` describe; keeps the shapes."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.shapes: dict[str, Shape] = {}

    def read(self, raw: bytes) -> bytes:
        """Return the resource in an XML document as JSON.

        Raises a 400 that names the line and the element for what is not well-formed UTF-8, has a
        document type, or is no R4 resource by xml.html: an element or an attribute that is not
        defined there, out of its order, too often or empty, text between elements, a number or a
        boolean that is none, nesting deeper than `MAX_DEPTH`. All else is left to validation.
        """
        return encode(Reader(self, raw).resource())

    def write(self, raw: bytes, *, pretty: bool = False) -> bytes:
        """Return a JSON resource as an XML document, with a line for each element if `pretty`.

        Raises a 406 for a character that XML has no means to hold, and a 400 for JSON that is no
        R4 resource.
        """
        try:
            return Writer(self, pretty=pretty).document(_DECODER.decode(raw.decode())).encode()
        except (ValueError, RecursionError):
            raise refused("structure", "Expected a resource as JSON") from None

    def shape(self, name: str) -> Shape:
        """Return the shape of a structure."""
        if name not in self.shapes:
            self.shapes[name] = self._made(self.definitions.structures[name])
        return self.shapes[name]

    @cached_property
    def holder(self) -> Shape:
        """Return the shape of what holds one resource: a document, or an element."""
        made = Shape("Resource")
        for type in self.definitions.resource_types:
            made.elements[f"{FHIR} {type}"] = Child("resource", "", type, "resource", False, 0)
        return made

    def _made(self, structure: Structure) -> Shape:
        shape = Shape(structure.name)
        if structure.kind == "resource":
            shape.keys["resourceType"] = Child("resourceType", "", "code", "attribute", False, -1)
            shape.places["resourceType"] = -1
        for place, element in enumerate(structure.elements):
            for child in self._children(structure, element, place):
                shape.add(child)
        return shape

    def _children(self, structure: Structure, element: Element, place: int) -> Iterator[Child]:
        """Yield an element, or each form of a choice."""
        for type in element.types:
            key = element.name + (type[0].upper() + type[1:] if element.choice else "")
            kind = self._kind(structure, element, type)
            beside = f"_{key}" if kind == "primitive" else ""
            yield Child(key, beside, type, kind, element.many, place)

    def _kind(self, structure: Structure, element: Element, type: str) -> Kind:
        if element.name == "id" and structure.kind != "resource":
            return "attribute"
        if (structure.name, element.name) == ("Extension", "url"):
            return "attribute"
        if type == "xhtml":
            return "xhtml"
        match self.definitions.structures[type].kind:
            case "resource":
                return "holder"
            case "primitive-type":
                return "primitive"
        return "object"


# ------------------------------------------------------------------------------- JSON into XML

# A number becomes its text
_DECODER = json.JSONDecoder(parse_float=str, parse_int=str)


class Misfit(Exception):
    """Why a value cannot be written; whoever knows its place makes a refusal of it."""

    def __init__(self, text: str, code: str = "structure", status: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.status = status


class Writer:
    """Writes one document: `out` are its pieces so far.

    A `margin` is what stands before a tag: nothing, or a new line and the indentation.
    """

    def __init__(self, xml: Xml, *, pretty: bool) -> None:
        self.xml = xml
        self.step = "  " if pretty else ""
        self.out: list[str] = [HEAD]

    def document(self, resource: Any) -> str:
        """Return the document of a resource."""
        try:
            type = self.type_of(resource)
        except Misfit as misfit:
            raise refused(misfit.code, str(misfit)) from None
        self.children(f'<{type} xmlns="{FHIR}"', type, self.xml.shape(type), resource, "")
        if self.step:
            self.out.append("\n")
        return "".join(self.out)

    def type_of(self, resource: Any) -> str:
        """Return the type that a resource says it has."""
        name = resource.get("resourceType") if isinstance(resource, dict) else None
        if not isinstance(name, str) or f"{FHIR} {name}" not in self.xml.holder.elements:
            raise Misfit("Expected a resource: an object whose resourceType is an R4 type")
        return name

    def children(self, head: str, tag: str, shape: Shape, value: Resource, margin: str) -> None:
        """Write an element from what is in it; `head` is its start tag without the end."""
        out = self.out
        at = len(out)
        out.append(head + ">")
        inner = (margin or "\n") + self.step if self.step else ""
        key = ""
        try:
            for key in sorted(value, key=shape.places.__getitem__):
                child, one = shape.keys[key], value[key]
                if child.kind == "primitive":
                    simple = type(one) is str and not child.many and child.beside not in value
                    if simple and not SPECIAL.search(one):
                        out.append(f'{inner}<{key} value="{one}"/>')  # what most of them are
                    elif key == child.key or child.key not in value:
                        self.primitives(child, value, inner)
                elif child.kind != "attribute":
                    for each in several(one) if child.many else (one,):
                        self.element(child, each, inner)
        except KeyError:
            unknown = next(key for key in value if key not in shape.keys)
            text = f"{shape.name} has no property {unknown[:80]!r}"
            raise refused("structure", text, shape.name) from None
        except Misfit as misfit:
            at_fault = f"{shape.name}.{key}"
            raise refused(misfit.code, str(misfit), at_fault, misfit.status) from None
        if len(out) == at + 1:
            out[at] = head + "/>"
        else:
            out.append(f"{inner[: -len(self.step)] if inner else ''}</{tag}>")

    def element(self, child: Child, value: Any, margin: str) -> None:
        """Write an element that is no primitive."""
        key = child.key
        if child.kind == "xhtml":
            self.out += (margin, embeddable(value))
        elif child.kind == "holder":
            type = self.type_of(value)
            inner = margin and margin + self.step
            self.out.append(f"{margin}<{key}>")
            self.children(f"{inner}<{type}", type, self.xml.shape(type), value, inner)
            self.out.append(f"{margin}</{key}>")
        else:
            self.object(key, child.type, value, f"{margin}<{key}", margin)

    def object(self, tag: str, type: str, value: Any, head: str, margin: str) -> None:
        """Write an object: its attributes, and what is in it."""
        if not isinstance(value, dict):
            raise Misfit("Expected an object")
        shape = self.xml.shape(type)
        for name in shape.attributes:
            if name in value:
                head += f' {name}="{escaped(value[name])}"'
        self.children(head, tag, shape, value, margin)

    def primitives(self, child: Child, owner: Resource, margin: str) -> None:
        """Write the values of a primitive with what stands beside them."""
        value, extra = owner.get(child.key), owner.get(child.beside)
        if not child.many:
            self.primitive(child.key, value, extra, margin)
            return
        for one, more in zip_longest(several(value or []), several(extra or [])):
            self.primitive(child.key, one, more, margin)

    def primitive(self, tag: str, value: Any, extra: Any, margin: str) -> None:
        """Write one primitive."""
        head = f"{margin}<{tag}"
        if value is not None:
            head += f' value="{escaped(value)}"'
        if extra is not None:
            self.object(tag, "Element", extra, head, margin)
        elif value is not None:
            self.out.append(head + "/>")
        else:
            raise Misfit("Expected a value, or extensions")


def several(value: Any) -> list[Any]:
    """Return an array; Misfit for anything else."""
    if not isinstance(value, list):
        raise Misfit("Expected an array")
    return value


def escaped(value: Any) -> str:
    """Return a primitive's value as the text of an attribute."""
    if not isinstance(value, str):
        if not isinstance(value, bool):
            raise Misfit("Expected a primitive value")
        return "true" if value else "false"
    return SPECIAL.sub(escape, value) if SPECIAL.search(value) else value


def escape(found: re.Match[str]) -> str:
    """Return the reference that stands for a character; Misfit where XML has none."""
    if found[0] not in ESCAPES:
        text = "XML cannot hold a control character that stands here; ask for JSON"
        raise Misfit(text, "not-supported", 406)
    return ESCAPES[found[0]]


def embeddable(div: Any) -> str:
    """Return a narrative's div, which may stand in a document as it is; Misfit for any other."""
    if not isinstance(div, str):
        raise Misfit("Expected XHTML as a string")
    if PLAIN.fullmatch(div):
        return div
    parser = expat.ParserCreate(namespace_separator=" ")

    def start(name: str, _: object) -> None:
        if name != DIV:
            raise ValueError
        parser.StartElementHandler = None

    def doctype(*_: object) -> None:
        raise ValueError

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(div, True)
    except (expat.ExpatError, ValueError):
        raise Misfit("Expected one well-formed div element of the XHTML namespace") from None
    return PROLOG.sub("", div, count=1)


# ------------------------------------------------------------------------------- XML into JSON


@dataclass(slots=True)
class Frame:
    """An open element: what it is, what may stand in it, what was read, and its last child."""

    child: Child
    shape: Shape
    made: Resource
    last: Child


DOCUMENT = Child("", "", "Resource", "holder", False, 0)
NOTHING = Child("", "", "", "attribute", False, -1)


class Reader:
    """Reads one document."""

    def __init__(self, xml: Xml, raw: bytes) -> None:
        self.xml = xml
        self.raw = raw
        self.bare = xml.shape("Element")  # what stands beside the value of a primitive
        self.stack = [Frame(DOCUMENT, xml.holder, {}, NOTHING)]
        # The prefixes in scope; and how many of them when the last element began
        self.namespaces: list[tuple[str, str]] = []
        self.outside = 0
        # Of an open div: where it begins, how many elements are open, what is declared outside
        self.begin = 0
        self.open = 0
        self.lent: list[str] = []
        self.parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.XmlDeclHandler = self.declaration
        self.parser.StartDoctypeDeclHandler = self.doctype
        self.parser.StartNamespaceDeclHandler = self.namespace
        self.parser.EndNamespaceDeclHandler = self.end_namespace
        self.listen()

    def resource(self) -> Resource:
        """Return the resource of the document, its numbers as raw JSON."""
        try:
            if not self.raw.isascii():
                self.raw.decode()  # a byte order mark would make expat read another encoding
            self.parser.Parse(self.raw, True)
        except UnicodeDecodeError as error:
            text = f"The body is not UTF-8: byte {error.start} is wrong"
            raise refused("structure", text) from None
        except expat.ExpatError as error:
            where = f"line {error.lineno} column {error.offset + 1}"
            text = f"The body is not well-formed XML: {expat.ErrorString(error.code)} at {where}"
            raise refused("structure", text) from None
        finally:
            del self.parser  # refers back here: a large body would wait for the collector
        found: Resource = self.stack[0].made["resource"]
        return found

    def listen(self) -> None:
        """Follow the elements of resources."""
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.text

    # --- what expat tells

    def declaration(self, _: str, encoding: str | None, __: int) -> None:
        """Refuse any encoding but UTF-8."""
        if encoding and encoding.lower() not in ENCODINGS:
            raise self.misfit("The XML must be in UTF-8, and say so if it names an encoding")

    def doctype(self, *_: object) -> None:
        """Refuse a document type, and with it every entity."""
        raise self.misfit("The XML must not have a document type or entities")

    def namespace(self, prefix: str | None, uri: str | None) -> None:
        """Note a namespace that the next element declares; each narrative looks at all of them."""
        if not self.open and len(self.namespaces) == MOST_NAMESPACES:
            raise self.misfit(f"The XML declares more than {MOST_NAMESPACES} namespaces")
        self.namespaces.append((prefix or "", uri or ""))

    def end_namespace(self, _: str | None) -> None:
        """Forget the namespace that was declared last."""
        self.namespaces.pop()
        self.outside = min(self.outside, len(self.namespaces))

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Open an element."""
        around = self.stack[-1]
        child = around.shape.elements.get(name)
        if child is None:
            raise self.unknown(name)
        if child.place <= around.last.place and not (child.many and child is around.last):
            self.check_order(around, child)
        around.last = child
        if len(self.stack) > MAX_DEPTH:
            raise refused("structure", f"The XML nests deeper than {MAX_DEPTH} elements")
        made: Resource = attributes
        allowed: tuple[str, ...] = ()
        match child.kind:
            case "primitive":
                shape, allowed = self.bare, VALUE
            case "object":
                shape = self.xml.shape(child.type)
                allowed = shape.attributes
            case "resource":
                shape = self.xml.shape(child.type)
                made = {"resourceType": child.type}
            case "xhtml":
                self.start_div()
                return
            case _:
                shape = self.xml.holder
        self.stack.append(Frame(child, shape, made, NOTHING))
        if attributes and (unknown := attributes.keys() - allowed):
            raise self.unknown(min(unknown), "attribute")
        self.outside = len(self.namespaces)

    def end(self, _: str) -> None:
        """Close an element: what was read of it goes into the one around it."""
        frame = self.stack[-1]
        child, made, owner = frame.child, frame.made, self.stack[-2].made
        if child.kind == "primitive":
            text = made.pop("value", None)
            if text is None and not made:
                raise self.misfit("Must have a value, or extensions")
            value = None if text is None else self.value(child.type, text)
            if child.many:
                add(owner, child, value, made)
            else:
                if value is not None:
                    owner[child.key] = value
                if made:
                    owner[child.beside] = made
        else:
            if child.kind == "holder" and not made:
                raise self.misfit("Must hold a resource")
            one = made["resource"] if child.kind == "holder" else made
            if child.many:
                owner.setdefault(child.key, []).append(one)
            else:
                owner[child.key] = one
        self.stack.pop()

    def text(self, text: str) -> None:
        """Refuse text: only white space may stand between elements."""
        if text.strip(" \t\r\n"):
            raise self.misfit("Must not hold text: a value stands in the attribute value")

    def value(self, type: str, text: str) -> Any:
        """Return a primitive's value as JSON has it."""
        if type in NUMBERS:
            if not NUMBER.fullmatch(text):
                raise self.misfit(f"The value must be a number ({type})")
            return msgspec.Raw(text.removeprefix("+").encode())  # JSON has no plus sign
        if type == "boolean":
            if text not in BOOLEANS:
                raise self.misfit("The value must be true or false")
            return BOOLEANS[text]
        return text

    # --- a narrative: its source is taken as it is

    def start_div(self) -> None:
        """Let everything pass until the div that begins here is closed."""
        self.begin = self.parser.CurrentByteIndex
        self.open = 1
        own = dict(self.namespaces[self.outside :])
        lent = dict(self.namespaces[: self.outside])
        self.lent = [p for p, uri in lent.items() if uri == NAMESPACE and p not in own]
        self.parser.StartElementHandler = self.start_inside
        self.parser.EndElementHandler = self.end_inside
        self.parser.CharacterDataHandler = None

    def start_inside(self, *_: object) -> None:
        """Count an element inside the div."""
        self.open += 1

    def end_inside(self, _: str) -> None:
        """Count down; at the end of the div take its source."""
        self.open -= 1
        if self.open:
            return
        self.listen()
        tag = START_TAG.match(self.raw, self.begin)
        if tag is None:
            raise self.misfit("The narrative must be one div element")
        end = tag.end()
        if not tag[0].endswith(b"/>"):
            end = self.raw.index(b">", self.parser.CurrentByteIndex) + 1
        source = self.raw[self.begin : end].decode()
        name = len(tag[1].decode())
        frame = self.stack[-1]
        frame.made[frame.last.key] = f"{source[:name]}{self.borrowed(source)}{source[name:]}"

    def borrowed(self, source: str) -> str:
        """Return the declarations of XHTML that a div needs and that stand outside of it.

        Any other namespace has no place in a narrative, so the div is left without it.
        """
        return "".join(
            f' xmlns{prefix and ":"}{prefix}="{NAMESPACE}"'
            for prefix in self.lent
            if not prefix or f"{prefix}:" in source
        )

    # --- refusals

    def check_order(self, around: Frame, child: Child) -> None:
        """Refuse an element that comes too late, or once more than it may."""
        last = around.last
        if child.place < last.place:
            raise self.misfit(f"{child.key} must come before {last.key}")
        if child.kind == "resource" and around.made:
            raise self.misfit("Must hold one resource only")
        if not child.many and (child.key in around.made or child.beside in around.made):
            raise self.misfit(f"{child.key} must occur once only")

    def unknown(self, name: str, what: str = "element") -> FhirError:
        """Return the refusal of an element or attribute that is not defined where it stands."""
        frame = self.stack[-1]
        space, _, local = name.rpartition(" ")
        shown = local if NAME.fullmatch(local) else "of that name"
        if what == "element":
            spaces = [
                known.split(" ")[0] for known in frame.shape.elements if known.endswith(f" {local}")
            ]
            if spaces and space != spaces[0]:
                return self.misfit(f"{shown} must be in the namespace {spaces[0]}")
            if frame.shape is self.xml.holder:
                return self.misfit(f"Expected a resource: there is no type {shown}")
        owner = frame.child.type if frame.child.kind == "primitive" else frame.shape.name
        return self.misfit(f"{owner} has no {what} {shown}")

    def misfit(self, text: str) -> FhirError:
        """Return the refusal of what stands at the parser's place: with its line and its path."""
        return refused("structure", f"{text} (line {self.parser.CurrentLineNumber})", self.path())

    def path(self) -> str:
        """Return the path of the innermost open element, as FHIRPath writes it."""
        names: list[str] = []
        for around, frame in zip(self.stack, self.stack[1:], strict=False):
            child = frame.child
            if child.kind == "resource":
                names = names or [child.type]
                continue
            n = len(around.made.get(child.key) or around.made.get(child.beside) or ())
            names.append(f"{child.key}[{n}]" if child.many else child.key)
        return ".".join(names)


def add(owner: Resource, child: Child, value: Any, extra: Resource) -> None:
    """Add one of a repeating primitive to what holds it (json.html#primitive).

    Values and what stands beside them pair by their index, with null where one of them is missing;
    an array of which nothing is there at all is left out.
    """
    n = len(owner.get(child.key) or owner.get(child.beside) or ())
    for key, one in ((child.key, value), (child.beside, extra or None)):
        if one is not None:
            owner.setdefault(key, [None] * n).append(one)
        elif key in owner:
            owner[key].append(None)
