// The service as this page uses it: one photo a request, the key where one is asked for, patience where it is busy.

import { refused, silent, unreadable } from "./words.js";

const KEY = "edge-classifier-key";
/** How often a photo is sent whose connection broke although the service is there. */
const MOST_BROKEN = 4;
/** Seconds between two looks for a service that is away: doubled each time, up to the second figure. */
const AWAY = [1, 8];
/** A wait that is longer than this is not for a page to keep somebody waiting for. */
const LONGEST_WAIT = 60;

export function rememberKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** GET, as JSON; whatever the status, because `/health` says more with 503 than nothing. */
export async function read(path) {
  return (await fetch(path, { headers: headers() })).json();
}

/**
 * Sends a photo to `path`; resolves to `{answer, roundTripMs}`.
 *
 * A service that is busy is asked again after as long as it says, one that is away when it is back; both for as long as
 * it takes, or until `signal` says that nobody waits any more. `onWait(seconds)` hears of the first, `onAway()` of the
 * second, at each look. Classifying changes nothing, so a photo may be sent twice.
 *
 * @throws Failure if the service refuses the photo, or its connection breaks again and again.
 */
export async function send(path, file, { signal, onWait = () => {}, onAway = () => {} } = {}) {
  for (let broken = 0; ; ) {
    const started = performance.now();
    const keyed = headers();
    const { response, body } = await post(path, file, keyed, signal);
    if (response?.ok && body) return { answer: body, roundTripMs: performance.now() - started };
    const seconds = response && busyFor(response, body);
    if (seconds) {
      onWait(seconds);
      await pause(seconds, signal);
    } else if (response && !mayPass(response)) {
      throw refused(response.status, body, file, "Authorization" in keyed);
    } else if (await isThere(signal)) {
      // So it is this photo: unless a restart was in between, which the next try shows.
      if (!(await readable(file))) throw unreadable();
      if (++broken === MOST_BROKEN) throw response ? refused(response.status, body, file) : silent(file);
      await pause(broken / 2, signal);
    } else {
      await back(signal, onAway);
    }
  }
}

/** What every request needs where a key is asked for. */
export function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** The answer and what is in it; neither if the connection broke. */
async function post(path, file, keyed, signal) {
  try {
    // The bytes as they are: what kind of image they are is the service's to find out, not the file name's.
    const type = { "Content-Type": "application/octet-stream" };
    const response = await fetch(path, { method: "POST", body: file, signal, headers: { ...keyed, ...type } });
    // A proxy's own error is HTML.
    const body = await response.json().catch(() => null);
    signal?.throwIfAborted();
    return { response, body };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return {};
  }
}

/** Seconds after which a busy service wants to be asked again; 0 if it is not busy. */
function busyFor(response, body) {
  const draining = body?.type?.endsWith(":draining");
  // A proxy whose service is away answers 503 too, as HTML.
  const busy = response.status === 429 || (response.status === 503 && body && !draining);
  return busy ? Math.min(Math.max(Number(response.headers.get("Retry-After")) || 1, 1), LONGEST_WAIT) : 0;
}

/** Whether an answer says nothing about the photo: the service stops, nobody is behind the proxy, it took too long. */
function mayPass({ ok, status }) {
  return ok || [408, 502, 503, 504].includes(status);
}

async function isThere(signal) {
  try {
    return (await fetch("health/live", { signal, cache: "no-store" })).status < 500;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return false;
  }
}

/** Resolves when a service that is away is back. */
async function back(signal, onAway) {
  let [seconds, most] = AWAY;
  do {
    onAway();
    await pause(seconds, signal);
    seconds = Math.min(2 * seconds, most);
  } while (!(await isThere(signal)));
}

async function readable(file) {
  return file.slice(0, 1).arrayBuffer().then(() => true, () => false);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
