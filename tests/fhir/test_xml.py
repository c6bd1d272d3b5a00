"""The XML of resources and back: https://hl7.org/fhir/R4/xml.html.

Through HTTP: tests/rest/test_xml.py. All official examples: `make conformance`.
"""

import contextlib
import gc
import json
import string
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.fhir.definitions import load
from app.fhir.errors import FhirError, Issue
from app.fhir.path import Model
from app.fhir.wire import MAX_DEPTH, encode
from app.fhir.xml import Reader, Xml
from tests.conformance.official import exact, in_order, selection
from tests.fhir.specimens import Specimens

XML = Xml(load())
XHTML = "http://www.w3.org/1999/xhtml"
DIV = f'<div xmlns="{XHTML}">'

# What an attribute must not show as it is, what looks like markup, what is not ASCII
TEXTS = (
    "a",
    " a  b ",
    "line\nfeed\r\n\ttab",
    "<b>&amp;\"'</b>",
    "]]>",
    "é 漢 𝄞 \u2028\x85",
    "&#10;",
)


def read(content: str, attributes: str = "") -> Any:
    """Return the Patient whose elements are `content`, without its type."""
    raw = XML.read(f'<Patient xmlns="http://hl7.org/fhir"{attributes}>{content}</Patient>'.encode())
    found = json.loads(raw)
    assert found.pop("resourceType") == "Patient"
    return found


def written(patient: dict[str, Any], *, pretty: bool = False) -> str:
    """Return the content of a Patient's XML."""
    made = XML.write(encode({"resourceType": "Patient", **patient}), pretty=pretty).decode()
    head, _, rest = made.partition('<Patient xmlns="http://hl7.org/fhir">')
    assert head == '<?xml version="1.0" encoding="UTF-8"?>\n'
    return rest.rpartition("</Patient>")[0]


def refusal(raw: str | bytes) -> Issue:
    """Return why a document is refused, with 400."""
    with pytest.raises(FhirError) as caught:
        XML.read(raw.encode() if isinstance(raw, str) else raw)
    assert caught.value.status == 400
    (issue,) = caught.value.issues
    return issue


def refused(content: str, attributes: str = "") -> tuple[str, str]:
    """Return why a Patient with this content is refused: the text and the place."""
    issue = refusal(f'<Patient xmlns="http://hl7.org/fhir"{attributes}>\n{content}</Patient>')
    return issue.text, issue.expression


# --- There and back


def there_and_back(raw: bytes, *, pretty: bool = False) -> Any:
    """Return JSON as it comes back from its XML, every number as its text."""
    return exact(XML.read(XML.write(raw, pretty=pretty)))


@pytest.mark.parametrize("pretty", [False, True])
def test_every_committed_example_comes_back_equal(pretty: bool) -> None:
    changed = [e.name for e in selection() if there_and_back(e.raw, pretty=pretty) != e.content]

    assert changed == []


@pytest.mark.parametrize("type", load().resource_types)
def test_specimens_of_every_type_come_back_equal(type: str) -> None:
    specimens = Specimens(Model(load()), Random(type), texts=TEXTS)
    for _ in range(25):
        raw = encode(without_extended_attributes(specimens.value(type)))
        raw = raw.replace(b'"<div/>"', encode(f"{DIV}<hr/></div>"))

        assert there_and_back(raw) == exact(raw)


def without_extended_attributes(value: Any) -> Any:
    """Return a specimen without what no attribute and no XHTML may have: extensions."""
    if isinstance(value, list):
        return [without_extended_attributes(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = value.keys() - {"_id", "_url", "_div"}
    return {key: without_extended_attributes(one) for key, one in value.items() if key in kept}


def test_an_example_that_is_in_order_comes_back_in_order() -> None:
    patient = b"""{"resourceType":"Patient","id":"a","meta":{"versionId":"1"},"extension":[{"url":
        "u","valueDecimal":1.50}],"active":true,"name":[{"family":"b","_family":{"id":"c"},"given":
        ["d"]}],"birthDate":"2020"}"""

    assert in_order(there_and_back(patient)) == in_order(exact(patient))


SOUND = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\t\n\r<>&\"'"))
SOUND = SOUND.filter(lambda text: "\ufffe" not in text and "\uffff" not in text)
DECIMALS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", fullmatch=True
)


@given(st.lists(st.none() | SOUND, min_size=1), st.lists(st.booleans()), DECIMALS)
def test_any_text_null_and_number_comes_back_equal(
    given: list[str | None], extended: list[bool], number: str
) -> None:
    beside = [
        {"id": "x"} if text is None or more else None
        for text, more in zip(given, [*extended, *[False] * len(given)], strict=False)
    ]
    name: dict[str, Any] = {"given": given, "_given": beside}
    name = {key: values for key, values in name.items() if any(v is not None for v in values)}
    patient = {"resourceType": "Patient", "name": [name]}
    extension = {"url": "u", "valueDecimal": msgspec.Raw(number.encode())}
    raw = encode({**patient, "extension": [extension]})

    assert there_and_back(raw) == exact(raw)


# --- What stands where


def test_elements_are_written_in_the_order_of_the_definition() -> None:
    patient = {"birthDate": "2020", "name": [{"given": ["b"], "family": "a"}], "id": "1"}

    assert written(patient) == (
        '<id value="1"/><name><family value="a"/><given value="b"/></name><birthDate value="2020"/>'
    )


def test_ids_of_elements_and_urls_of_extensions_are_attributes() -> None:
    extension = {"valueString": "v", "url": "u", "id": "e"}

    assert written({"_gender": {"id": "g", "extension": [extension]}}) == (
        '<gender id="g"><extension id="e" url="u"><valueString value="v"/></extension></gender>'
    )


def test_values_without_content_are_paired_with_their_extensions() -> None:
    content = '<name><given value="a"/><given id="b"/><given value="c" id="d"/></name>'

    assert read(content) == {
        "name": [{"given": ["a", None, "c"], "_given": [None, {"id": "b"}, {"id": "d"}]}]
    }


def test_an_array_of_which_no_item_has_a_value_is_left_out() -> None:
    assert read('<name><given id="a"/><given id="b"/></name>') == {
        "name": [{"_given": [{"id": "a"}, {"id": "b"}]}]
    }


def test_one_item_of_a_repeating_element_is_an_array() -> None:
    assert read('<name><family value="a"/></name>') == {"name": [{"family": "a"}]}


def test_numbers_and_booleans_are_those_of_json_and_keep_their_digits() -> None:
    content = (
        '<extension url="u"><valueDecimal value="1.50"/></extension><active value="true"/>'
        '<multipleBirthInteger value="+2"/>'
    )
    raw = XML.read(f'<Patient xmlns="http://hl7.org/fhir">{content}</Patient>'.encode())

    assert raw == (
        b'{"resourceType":"Patient","extension":[{"url":"u","valueDecimal":1.50}],'
        b'"active":true,"multipleBirthInteger":2}'
    )


def test_resources_inside_stand_in_an_element_of_their_type() -> None:
    content = '<contained><Organization><id value="o"/></Organization></contained>'

    assert read(content) == {"contained": [{"resourceType": "Organization", "id": "o"}]}
    assert written(read(content)) == content


def test_a_prefix_for_the_namespace_is_as_good_as_none() -> None:
    raw = XML.read(b'<f:Patient xmlns:f="http://hl7.org/fhir"><f:id value="a"/></f:Patient>')

    assert raw == b'{"resourceType":"Patient","id":"a"}'


def test_comments_and_processing_instructions_and_white_space_are_ignored() -> None:
    document = (
        "<?xml version='1.0' encoding='utf-8'?><?xml-stylesheet href='x'?><!-- a -->\r\n"
        "<Patient xmlns='http://hl7.org/fhir'>\n\t<!-- b --><id value='a'/><?c d?>\n</Patient>\n"
    )

    assert XML.read(b"\xef\xbb\xbf" + document.encode()) == b'{"resourceType":"Patient","id":"a"}'


def test_pretty_xml_has_a_line_for_each_element() -> None:
    patient = {"name": [{"given": ["b"]}], "contained": [{"resourceType": "Group", "id": "o"}]}

    assert written(patient, pretty=True).splitlines() == [
        "",
        "  <contained>",
        "    <Group>",
        '      <id value="o"/>',
        "    </Group>",
        "  </contained>",
        "  <name>",
        '    <given value="b"/>',
        "  </name>",
    ]


# --- Narratives


def narrative(div: str, attributes: str = "") -> str:
    """Return what a narrative's div becomes in JSON."""
    found: str = read(f'<text><status value="generated"/>{div}</text>', attributes)["text"]["div"]
    return found


DIVS = [
    f"{DIV}a &amp; &#160;b<br/>\r\n<p title='&gt;>'>c</p ><!-- <d> --><![CDATA[<e>]]></div >",
    f'<div  xmlns="{XHTML}"\n title="a>b" ><div><div/></div>é</div>',
    f"<div title='/>' xmlns='{XHTML}'/>",
    f'<h:div xmlns:h="{XHTML}"><h:p>a</h:p></h:div>',
]


@pytest.mark.parametrize("div", DIVS)
@pytest.mark.parametrize("pretty", [False, True])
def test_a_narrative_keeps_every_byte(div: str, pretty: bool) -> None:
    text = {"text": {"status": "generated", "div": div}}

    assert narrative(div) == div
    assert narrative(div, ' xmlns:x="urn:unused"') == div
    assert div in written(text, pretty=pretty)
    assert read(written(text, pretty=pretty)) == text


@pytest.mark.parametrize("before", ["\ufeff", f"<!-- é{'x' * 2_500_000} -->"])
def test_a_narrative_is_cut_out_where_it_stands(before: str) -> None:
    patient = f'<Patient xmlns="http://hl7.org/fhir"><text>{DIVS[0]}</text></Patient>'

    assert json.loads(XML.read(f"{before}{patient}".encode()))["text"]["div"] == DIVS[0]


def test_a_narrative_takes_along_what_is_declared_outside_of_it() -> None:
    declared = f' xmlns:h="{XHTML}" xmlns:i="{XHTML}"'

    assert narrative("<h:div>a<h:b>c</h:b></h:div>", declared) == (
        f'<h:div xmlns:h="{XHTML}">a<h:b>c</h:b></h:div>'
    )
    assert narrative(f'<h:div xmlns:h="{XHTML}">a</h:div>', declared) == (
        f'<h:div xmlns:h="{XHTML}">a</h:div>'
    )


def test_a_narrative_takes_along_the_default_namespace() -> None:
    document = (
        f'<f:Patient xmlns:f="http://hl7.org/fhir" xmlns="{XHTML}"><f:text><div>a</div></f:text>'
        "</f:Patient>"
    )

    assert json.loads(XML.read(document.encode()))["text"]["div"] == f"{DIV}a</div>"


def test_a_narrative_does_not_take_along_what_its_neighbours_declare() -> None:
    div = f'<div xmlns="{XHTML}" xmlns:y="{XHTML}">a</div>'
    content = f'<text><status xmlns:x="{XHTML}" value="generated"/>{div}</text>'

    assert read(content)["text"]["div"] == div


@pytest.mark.parametrize(
    "div",
    [
        "<div>a</div>",
        f"{DIV}a",
        f"{DIV}a</div></text>",
        f"{DIV}a</div>{DIV}b</div>",
        f"<!DOCTYPE div>{DIV}a</div>",
        f'<p xmlns="{XHTML}">a</p>',
        f"{DIV}&nbsp;</div>",
        "a",
        "",
    ],
)
def test_a_narrative_that_would_break_the_document_is_not_written(div: str) -> None:
    with pytest.raises(FhirError, match="Expected one well-formed div element"):
        written({"text": {"status": "generated", "div": div}})


@pytest.mark.parametrize(
    "prolog", ['<?xml version="1.0"?>', "\ufeff", "\ufeff<?xml version='1.0'?>"]
)
def test_what_may_only_begin_a_document_goes_from_a_narrative(prolog: str) -> None:
    div = f"{prolog}{DIV}<p/>a</div>"

    assert written({"text": {"div": div}}) == f"<text>{DIV}<p/>a</div></text>"


# --- What is refused

NOT_DEFINED = [
    ("<foo/>", "Patient has no element foo", "Patient"),
    ('<name><family value="a"/></name><name><foo/></name>', "HumanName has no element foo",
     "Patient.name[1]"),
    ('<birthDate value="2020"><value/></birthDate>', "date has no element value",
     "Patient.birthDate"),
    ("<name><given><extension><x/></extension></given></name>", "Extension has no element x",
     "Patient.name[0].given[0].extension[0]"),
    ('<name value="a"/>', "HumanName has no attribute value", "Patient.name[0]"),
    ('<birthDate value="2020" use="x"/>', "date has no attribute use", "Patient.birthDate"),
    ('<é\u0301/>', "Patient has no element of that name", "Patient"),
    ("<_birthDate/>", "Patient has no element _birthDate", "Patient"),
    ("<text><div>a</div></text>", f"div must be in the namespace {XHTML}", "Patient.text"),
    ("<id xmlns='urn:x'/>", "id must be in the namespace http://hl7.org/fhir", "Patient"),
    ("<contained><Foo/></contained>", "Expected a resource: there is no type Foo",
     "Patient.contained[0]"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "text", "place"), NOT_DEFINED)
def test_what_is_not_defined_is_refused_with_its_line(content: str, text: str, place: str) -> None:
    assert refused(content) == (f"{text} (line 2)", place)


MISPLACED = [
    ('<birthDate value="2020"/><gender value="male"/>', "gender must come before birthDate",
     "Patient"),
    ('<name/><gender value="male"/><name/>', "name must come before gender", "Patient"),
    ('<id value="a"/><id value="b"/>', "id must occur once only", "Patient"),
    ('<gender id="a"/><gender id="b"/>', "gender must occur once only", "Patient"),
    (f"<text>{DIV}</div>{DIV}</div></text>", "div must occur once only", "Patient.text"),
    ("<contained><Group/><Group/></contained>", "Must hold one resource only",
     "Patient.contained[0]"),
    ("<contained><Group/><Patient/></contained>", "Must hold one resource only",
     "Patient.contained[0]"),
    ("<contained> </contained>", "Must hold a resource", "Patient.contained[0]"),
    ("<active/>", "Must have a value, or extensions", "Patient.active"),
    ("<active>true</active>", "Must not hold text: a value stands in the attribute value",
     "Patient.active"),
    ('<id value="a"/>b', "Must not hold text: a value stands in the attribute value", "Patient"),
    ("\u00a0", "Must not hold text: a value stands in the attribute value", "Patient"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "text", "place"), MISPLACED)
def test_what_stands_in_the_wrong_place_is_refused(content: str, text: str, place: str) -> None:
    assert refused(content) == (f"{text} (line 2)", place)


@pytest.mark.parametrize("value", ["", "yes", "True", "1", " true"])
def test_a_boolean_that_is_none_is_refused(value: str) -> None:
    assert refused(f'<active value="{value}"/>') == (
        "The value must be true or false (line 2)",
        "Patient.active",
    )


@pytest.mark.parametrize("value", ["", "a", "01", "1.", ".5", "0x1", "NaN", "+-1", "1 ", "١", "1e"])
def test_a_number_that_is_none_is_refused(value: str) -> None:
    assert refused(f'<multipleBirthInteger value="{value}"/>') == (
        "The value must be a number (integer) (line 2)",
        "Patient.multipleBirthInteger",
    )


def test_the_namespace_must_be_that_of_fhir() -> None:
    expected = "Patient must be in the namespace http://hl7.org/fhir (line 1)"

    assert refusal("<Patient/>").text == expected
    assert refusal('<Patient xmlns="http://hl7.org/fhir/"/>').text == expected


def test_attributes_on_a_resource_are_refused() -> None:
    schema = ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation="a b"'

    assert refused("", ' id="a"') == ("Patient has no attribute id (line 1)", "Patient")
    assert refused("", schema) == ("Patient has no attribute schemaLocation (line 1)", "Patient")


@pytest.mark.parametrize(
    "document",
    [b"", b" ", b"{}", b"Patient", b"<Patient", b"\0", b"<a b=c/>", b"<a b='1' b='2'/>",
     b'<Patient xmlns="http://hl7.org/fhir"></Patien>',
     b'<Patient xmlns="http://hl7.org/fhir"/><Patient xmlns="http://hl7.org/fhir"/>',
     b'<Patient xmlns="http://hl7.org/fhir"><id value="a" value="b"/></Patient>',
     b'<Patient xmlns="http://hl7.org/fhir"><id value="&nbsp;"/></Patient>',
     b'<Patient xmlns="http://hl7.org/fhir"><id value="&#1;"/></Patient>',
     b'<Patient xmlns="http://hl7.org/fhir"><x:id value="a"/></Patient>'],
)  # fmt: skip
def test_what_is_not_well_formed_is_refused_with_its_line(document: bytes) -> None:
    text = refusal(document).text

    assert text.startswith("The body is not well-formed XML: ")
    assert " at line 1 column " in text


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp037"])
def test_other_encodings_are_refused(encoding: str) -> None:
    refusal('<Patient xmlns="http://hl7.org/fhir"><id value="é"/></Patient>'.encode(encoding))


def test_bytes_that_are_not_utf_8_and_declarations_of_other_encodings_are_refused() -> None:
    latin = '<Patient xmlns="http://hl7.org/fhir"><id value="é"/></Patient>'.encode("latin-1")
    declared = b'<?xml version="1.0" encoding="ISO-8859-1"?><Patient xmlns="http://hl7.org/fhir"/>'

    assert refusal(latin).text == "The body is not UTF-8: byte 48 is wrong"
    assert refusal(declared).text.startswith("The XML must be in UTF-8")


LAUGHS = "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">'
    for before, name in zip(string.ascii_lowercase, string.ascii_lowercase[1:], strict=False)
)
DOCUMENT_TYPES = [
    "<!DOCTYPE Patient>",
    '<!DOCTYPE Patient SYSTEM "file:///etc/passwd">',
    '<!DOCTYPE Patient [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE Patient [<!ENTITY % x SYSTEM "http://127.0.0.1:1/x"> %x;]>',
    f'<!DOCTYPE Patient [<!ENTITY a "aaaaaaaaaa">{LAUGHS}]>',
    f'<!DOCTYPE Patient [<!ENTITY a "{"a" * 100_000}">]>',
]


@pytest.mark.parametrize("doctype", DOCUMENT_TYPES)
def test_a_document_type_is_refused_before_anything_of_it_is_done(doctype: str) -> None:
    content = f'<Patient xmlns="http://hl7.org/fhir"><id value="{"&z;" * 1000}"/></Patient>'

    text = "The XML must not have a document type or entities (line 1)"
    assert refusal(doctype + content).text == text


def test_elements_nest_as_deep_as_json_does() -> None:
    deepest = MAX_DEPTH - 1

    def nested(depth: int) -> str:
        return '<extension url="u">' * depth + "</extension>" * depth

    assert read(nested(deepest))
    assert refused(nested(deepest + 1)) == (f"The XML nests deeper than {MAX_DEPTH} elements", "")
    assert refused('<extension url="u">' * 100_000)[0].startswith("The XML nests deeper")


@pytest.mark.parametrize("content", ['<id value="a"/>', "<foo/>", "<id", f"<text>{DIVS[0]}</text>"])
def test_a_document_leaves_nothing_that_waits_for_the_collector(content: str) -> None:
    document = f'<Patient xmlns="http://hl7.org/fhir">{content}</Patient>'.encode()
    gc.collect()
    gc.disable()

    try:
        with contextlib.suppress(FhirError):
            XML.read(document)
        left = [one for one in gc.get_objects() if isinstance(one, Reader)]
    finally:
        gc.enable()

    assert left == []


def test_namespaces_are_limited_outside_of_narratives() -> None:
    many = "".join(f' xmlns:a{n}="urn:a"' for n in range(99))
    div = f"{DIV}<p{many}><b{many}>a</b></p></div>"

    assert read("", many) == {}
    assert narrative(div) == div
    assert refused("", many + ' xmlns:b="urn:b"') == (
        "The XML declares more than 100 namespaces (line 1)",
        "",
    )


def test_what_is_borrowed_by_narratives_does_not_grow_without_end() -> None:
    declared = f' xmlns:x="urn:{"x" * 100_000}"'
    organization = f"<contained><Group><text>{DIV}x:</div></text></Group></contained>"

    assert len(json.dumps(read(organization * 100, declared))) < 100_000


CONTROL = ["\0", "\x01", "\x1f", "\x0b", "\ufffe", "\uffff"]


@pytest.mark.parametrize("character", CONTROL)
def test_what_xml_cannot_hold_is_not_acceptable(character: str) -> None:
    with pytest.raises(FhirError) as caught:
        written({"name": [{"family": f"a{character}"}]})

    assert caught.value.status == 406
    assert caught.value.issues[0].expression == "HumanName.family"


@pytest.mark.parametrize(
    "raw",
    ["", "[]", "{}", '"a"', '{"resourceType":"Foo"}', '{"resourceType":["Patient"]}',
     '{"resourceType":"Patient","foo":1}', '{"resourceType":"Patient","id":null}',
     '{"resourceType":"Patient","id":{}}', '{"resourceType":"Patient","_id":1}',
     '{"resourceType":"Patient","active":NaN}', '{"resourceType":"Patient","name":{}}',
     '{"resourceType":"Patient","name":[1]}', '{"resourceType":"Patient","maritalStatus":[]}',
     '{"resourceType":"Patient","name":[{"given":["a",null]}]}',
     '{"resourceType":"Patient","name":[{"given":"a"}]}',
     '{"resourceType":"Patient","name":[{"id":[]}]}',
     '{"resourceType":"Patient","contained":[1]}', '{"resourceType":"Patient","text":{"div":1}}',
     '{"resourceType":"Patient","contained":[{"resourceType":"Resource"}]}',
     '{"resourceType":"Patient","extension":' + '[{"extension":' * 2000 + "1" + "}]" * 2000 + "}"],
)  # fmt: skip
def test_json_that_is_no_resource_is_refused(raw: str) -> None:
    with pytest.raises(FhirError) as caught:
        XML.write(raw.encode())

    assert caught.value.status == 400


# --- Whatever comes in

DOCUMENTS = [XML.write(e.raw) for e in selection() if len(e.raw) < 3000]
FRAGMENTS = st.binary(max_size=3) | st.sampled_from(
    [b"<", b"/>", b"</", b">", b'"', b"'", b"&", b"&amp;", b"&#0;", b"<!--", b"-->", b"<![CDATA[",
     b"]]>", b"<?", b"?>", b"<!DOCTYPE a>", b' xmlns="urn:x"', b' xmlns=""', b' xmlns:a="urn:x"',
     b"a:", b"<div>", b"<a/>", b' value="1"', b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b" ", b"=", b"1"]
)  # fmt: skip


@given(st.data())
def test_any_document_is_read_or_refused(data: st.DataObject) -> None:
    raw = data.draw(st.sampled_from(DOCUMENTS))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(raw)))
        raw = raw[:start] + data.draw(FRAGMENTS) + raw[start + data.draw(st.integers(0, 5)) :]

    with contextlib.suppress(FhirError):
        assert json.loads(XML.read(raw))["resourceType"] in load().resource_types
