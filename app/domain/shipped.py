"""What is shipped as data: code systems, value sets, profiles, search parameters, operations.

https://hl7.org/fhir/R4/conformance-module.html

Files of `data` are JSON with `{IOP}` where the canonical base goes. They say what is particular;
what follows from the type and the id, the address for instance, is added here. Extensions and
profiles are written in short: what they are on, and rows for what they say about elements.
"""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources as files
from typing import Any

from app.fhir.wire import Resource, encode

PLACEHOLDER = "{IOP}"
PUBLISHED: Resource = {
    "version": "1.0.0",
    "status": "active",
    "experimental": False,
    "date": "2026-11-22",
    "publisher": "Milepost",
}
R4 = "http://hl7.org/fhir/StructureDefinition"
REFERENCE = re.compile(r"Reference\((\w+)\)")
ICD_10_CM = re.compile(r"[A-Z][0-9A-Z]{2}(\.[0-9A-Z]{1,4})?")


@cache
def resources(base: str) -> tuple[Resource, ...]:
    """Return all that is stored in a database for its clients to read and search."""
    named = tuple(_shipped(base))
    return (*named, _guide(base, named))


@cache
def guide(base: str) -> Resource:
    """Return the ImplementationGuide: it lists all that is shipped, its version is of it all."""
    return resources(base)[-1]


@cache
def operations(base: str) -> Mapping[str, Resource]:
    """Return the OperationDefinitions by id, which is their code where that has only one."""
    found = (one for one in resources(base) if one["resourceType"] == "OperationDefinition")
    return {one["id"]: one for one in found}


def is_billable(code: str) -> bool | None:
    """Return whether a code of ICD-10-CM has all its digits, None for what is no such code.

    False for the headings of the release that is shipped: any other code is taken for one that
    can be billed, so that those of a later release are.
    """
    return code not in _headings() if ICD_10_CM.fullmatch(code) else None


@cache
def _headings() -> frozenset[str]:
    file = files.files("app.domain.data") / "icd-10-cm-headings.json.gz"
    return frozenset(json.loads(gzip.decompress(file.read_bytes()))["headings"])


def _shipped(base: str) -> Iterator[Resource]:
    for file in sorted(files.files("app.domain.data").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".json"):
            held = json.loads(file.read_text("utf-8").replace(PLACEHOLDER, base))
            for known in held if isinstance(held, list) else [held]:
                yield _completed(base, known)
                if known["resourceType"] == "CodeSystem":
                    yield _completed(base, _all_of(base, known))


def _guide(base: str, listed: Iterable[Resource]) -> Resource:
    digest = hashlib.sha256()
    for one in listed:
        digest.update(encode(one))
    references = [f"{one['resourceType']}/{one['id']}" for one in listed]
    known: Resource = {
        "resourceType": "ImplementationGuide",
        "id": "iop",
        "title": "Intensive outpatient programs",
        "description": "The vocabulary, the profiles and the operations of a program.",
        "packageId": "milepost.iop",
        "fhirVersion": ["4.0.1"],
        "definition": {"resource": [{"reference": {"reference": one}} for one in references]},
    }
    version = f"{PUBLISHED['version']}+{digest.hexdigest()[:12]}"
    return _completed(base, {**known, "version": version})


def _completed(base: str, known: Resource) -> Resource:
    """Return a resource with what all have, and with what follows from its type."""
    type, id = known["resourceType"], known["id"]
    name = "".join(part.title() for part in id.split("-"))
    start = {"resourceType": type, "id": id, "url": f"{base}/{type}/{id}", "name": name}
    whole = COMPLETE[type](base, known) if type in COMPLETE else known
    return {**start, **PUBLISHED, **whole}


def _all_of(base: str, system: Resource) -> Resource:
    """Return the ValueSet of all codes of a CodeSystem, which has the same id."""
    texts = {name: system[name] for name in ("id", "title", "description")}
    compose = {"include": [{"system": f"{base}/CodeSystem/{system['id']}"}]}
    return {"resourceType": "ValueSet", **texts, "compose": compose}


def _code_system(base: str, known: Resource) -> Resource:
    whole = {**known, "caseSensitive": True, "content": "complete", "count": len(known["concept"])}
    whole["valueSet"] = f"{base}/ValueSet/{known['id']}"
    if "property" in known:
        place = f"{base}/CodeSystem/{known['id']}#"
        whole["property"] = [{**one, "uri": place + one["code"]} for one in known["property"]]
    return whole


def _structure(base: str, known: Resource) -> Resource:
    """Return an extension or a profile: a constraint on what R4 has, as a differential."""
    element = _extension(base, known) if known["type"] == "Extension" else _profile(base, known)
    short = ("on", "value", "parts", "elements", "constraint")
    whole: Resource = {name: value for name, value in known.items() if name not in short}
    if known["type"] == "Extension":
        whole["context"] = [{"type": "element", "expression": one} for one in known["on"]]
    return {
        **whole,
        "fhirVersion": "4.0.1",
        "kind": "complex-type" if known["type"] == "Extension" else "resource",
        "abstract": False,
        "baseDefinition": f"{R4}/{known['type']}",
        "derivation": "constraint",
        "differential": {"element": list(element)},
    }


def _extension(base: str, known: Resource) -> Iterator[Resource]:
    """Yield the elements of an extension: with one value, or with parts that have one each."""
    about = {"short": known["title"], "definition": known["description"]}
    yield _element("Extension", **about)
    if "parts" not in known:
        yield _element("Extension.extension", max="0")
    for url, part in known.get("parts", {}).items():
        yield from _part(base, url, part)
    yield _element("Extension.url", fixedUri=f"{base}/StructureDefinition/{known['id']}")
    if "value" in known:
        yield _element("Extension.value[x]", min=1, **_typed(base, known["value"]))
    else:
        yield _element("Extension.value[x]", max="0")


def _part(base: str, url: str, part: Resource) -> Iterator[Resource]:
    """Yield the elements of an extension inside of another."""
    slice = f"Extension.extension:{url}"
    limits = {"min": part.get("min", 0), "max": part.get("max", "1")}
    yield _element(slice, sliceName=url, short=part["definition"], **limits)
    yield _element(f"{slice}.extension", max="0")
    yield _element(f"{slice}.url", fixedUri=url)
    yield _element(f"{slice}.value[x]", min=1, **_typed(base, part))


def _profile(base: str, known: Resource) -> Iterator[Resource]:
    """Yield the elements of a profile; a row with a `slice` is about an extension of ours."""
    type = known["type"]
    source = f"{base}/StructureDefinition/{known['id']}"
    rules = [{**rule, "source": source} for rule in known.get("constraint", ())]
    yield _element(type, **({"constraint": rules} if rules else {}))
    for row in known["elements"]:
        limits = {name: row[name] for name in ("min", "max") if name in row}
        path = f"{type}.{row['path']}"
        if "slice" in row:
            url = f"{base}/StructureDefinition/{row['slice']}"
            of = [{"code": "Extension", "profile": [url]}]
            yield _element(f"{path}:{row['slice']}", sliceName=row["slice"], **limits, type=of)
            continue
        types = {"type": [_type(one) for one in row["types"]]} if "types" in row else {}
        yield _element(path, **limits, **types, **row.get("fixed", {}))


def _element(id: str, **said: Any) -> Resource:
    """Return an ElementDefinition; its path is its id without the names of slices."""
    return {"id": id, "path": re.sub(r":[\w-]+", "", id), **said}


def _typed(base: str, value: Resource) -> Resource:
    """Return type and binding of a value: `{"type": "code", "valueSet": "iop-stage"}`."""
    found: Resource = {"type": [_type(value["type"])]}
    if "valueSet" in value:
        url = f"{base}/ValueSet/{value['valueSet']}"
        found["binding"] = {"strength": value.get("strength", "required"), "valueSet": url}
    return found


def _type(text: str) -> Resource:
    """Return a type; that of a reference may name its target: `Reference(Group)`."""
    to = REFERENCE.fullmatch(text)
    target = {"targetProfile": [f"{R4}/{to[1]}"]} if to else {}
    return {"code": "Reference" if to else text, **target}


def _operation(_: str, known: Resource) -> Resource:
    return {"kind": "operation", **known}


COMPLETE: Mapping[str, Callable[[str, Resource], Resource]] = {
    "CodeSystem": _code_system,
    "OperationDefinition": _operation,
    "StructureDefinition": _structure,
}
