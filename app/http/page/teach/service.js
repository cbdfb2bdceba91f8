// What the page asks of the service, and what is said where it refuses.

import { headers } from "../api.js";
import { Failure, refused } from "../words.js";

/** Problems whose own words are meant for whoever uses this page. */
const PLAIN = /:(conflict|not-there|storage-full|cross-site|invalid-parameter|model-refused|no-previous-model)$/;

/** What to say about an error. */
export function told(error) {
  return PLAIN.test(error.problem?.type ?? "") ? error.problem.detail : error.message;
}

export function get(path) {
  return ask(path, {});
}

export function post(path, sent) {
  const body = sent === undefined ? {} : { body: JSON.stringify(sent), headers: { "Content-Type": "application/json" } };
  return ask(path, { method: "POST", ...body });
}

/** A photo or a model as a blob. */
export async function blob(path, signal) {
  const response = await fetch(path, { headers: headers(), signal });
  if (!response.ok) throw refused(response.status, await response.json().catch(() => null), { size: 1 }, true);
  return response.blob();
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Failure("The service cannot be reached. Check the network, then try again.");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  throw refused(response.status, body, { size: 1 }, "Authorization" in headers());
}
