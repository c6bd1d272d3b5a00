// fhir-kit-client: what its documentation shows, against the server that BASE_URL names, by a TOKEN

import assert from "node:assert/strict";
import { before, test } from "node:test";

import { Client } from "fhir-kit-client";

const client = new Client({
  baseUrl: process.env.BASE_URL,
  bearerToken: process.env.TOKEN,
});
const ada = { resourceType: "Patient", name: [{ family: "Marsh" }], gender: "female" };
const score = {
  resourceType: "Observation",
  status: "final",
  code: { coding: [{ system: "http://loinc.org", code: "44261-6" }] },
};
let subject;

before(async () => {
  const made = await client.create({ resourceType: "Patient", body: ada });
  subject = { reference: `Patient/${made.id}` };
  for (let n = 1; n <= 5; n++) {
    const body = { ...score, subject, effectiveDateTime: `2026-03-0${n}` };
    await client.create({ resourceType: "Observation", body });
  }
});

test("the CapabilityStatement is read", async () => {
  const { fhirVersion, rest } = await client.capabilityStatement();

  assert.equal(fhirVersion, "4.0.1");
  assert.ok(rest[0].resource.some(({ type }) => type === "Patient"));
});

test("a resource is created, read, changed and deleted", async () => {
  const { id } = await client.create({ resourceType: "Patient", body: ada });
  const read = await client.read({ resourceType: "Patient", id });
  await client.update({ resourceType: "Patient", id, body: { ...read, gender: "other" } });
  const first = await client.vread({ resourceType: "Patient", id, version: "1" });
  await client.delete({ resourceType: "Patient", id });

  assert.equal(first.gender, "female");
  await assert.rejects(client.read({ resourceType: "Patient", id }), ({ response }) => {
    assert.equal(response.status, 410);
    assert.equal(response.data.resourceType, "OperationOutcome");
    return true;
  });
});

test("a search walks all pages, forwards", async () => {
  const searchParams = { patient: subject.reference, _sort: "date", _count: 2 };
  const found = [];

  let bundle = await client.search({ resourceType: "Observation", searchParams });
  while (bundle) {
    found.push(...bundle.entry.map(({ resource }) => resource.effectiveDateTime));
    bundle = await client.nextPage({ bundle });
  }

  assert.deepEqual(found, [1, 2, 3, 4, 5].map((n) => `2026-03-0${n}`));
});

test("a search in a compartment and by POST finds the same", async () => {
  const compartment = { resourceType: "Patient", id: subject.reference.split("/")[1] };
  const searchParams = { patient: subject.reference };

  const inside = await client.search({ resourceType: "Observation", compartment });
  const posted = await client.search({
    resourceType: "Observation", searchParams, options: { postSearch: true },
  });

  assert.deepEqual([inside.total, posted.total], [5, 5]);
});

test("a JSON Patch changes what it names", async () => {
  const { id } = await client.create({ resourceType: "Patient", body: ada });
  const jsonPatch = [{ op: "replace", path: "/gender", value: "male" }];

  const patched = await client.patch({ resourceType: "Patient", id, jsonPatch });

  assert.equal(patched.gender, "male");
  assert.deepEqual(patched.name, ada.name);
});

test("a transaction and a batch are answered entry by entry", async () => {
  const entry = [{ resource: ada, request: { method: "POST", url: "Patient" } }];

  const together = await client.transaction({
    body: { resourceType: "Bundle", type: "transaction", entry },
  });
  const apart = await client.batch({ body: { resourceType: "Bundle", type: "batch", entry } });

  for (const reply of [together, apart]) {
    assert.deepEqual(reply.entry.map(({ response }) => response.status), ["201 Created"]);
  }
});

test("histories of a resource, a type and the system are read", async () => {
  const id = subject.reference.split("/")[1];

  const ofOne = await client.history({ resourceType: "Patient", id });
  const ofType = await client.history({ resourceType: "Patient" });
  const ofAll = await client.history();

  assert.equal(ofOne.total, 1);
  assert.deepEqual([ofType.type, ofAll.type], ["history", "history"]);
});

test("a reference is resolved", async () => {
  const resolved = await client.resolve({ reference: subject.reference });

  assert.equal(resolved.name[0].family, "Marsh");
});
