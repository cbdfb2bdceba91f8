// The service as this page uses it: one photo a request, the key where one is asked for, patience where it is busy.

const KEY = "edge-classifier-key";
const MOST_TRIES = 30;

/** What went wrong, in words for a person; `problem` is the service's own document, where it sent one. */
export class Failure extends Error {
  constructor(message, status = 0, problem = null) {
    super(message);
    this.status = status;
    this.problem = problem;
  }
}

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
 * A service that is busy is asked again after as long as it says. `onWait(seconds)` hears of it.
 */
export async function send(path, file, { signal, onWait = () => {} } = {}) {
  for (let tries = 1; ; tries++) {
    const started = performance.now();
    const response = await post(path, file, signal);
    const body = await response.json().catch(() => null);
    if (response.ok && body) return { answer: body, roundTripMs: performance.now() - started };
    if (response.status !== 503 || tries === MOST_TRIES) throw new Failure(words(response, body), response.status, body);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    onWait(seconds);
    await pause(seconds * 1000, signal);
  }
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function post(path, file, signal) {
  // The bytes as they are: what kind of image they are is the service's to find out, not the file name's.
  const options = { method: "POST", body: file, signal, headers: { ...headers(), "Content-Type": "application/octet-stream" } };
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    // A service that refuses a large body may close the connection before its answer is read.
    const reachable = await fetch("health/live", { signal }).then(() => true, () => false);
    throw new Failure(
      reachable
        ? `The service did not take this file (${megabytes(file.size)}). It may be too large; try a smaller one.`
        : "The service cannot be reached. Check the network, then try again.",
    );
  }
}

function words(response, body) {
  switch (response.status) {
    case 401:
      return "This service asks for an API key.";
    case 502:
    case 504:
      return "Something between here and the service does not answer. Try again in a moment.";
    default:
      return body?.detail ?? `The service answered with ${response.status} and no explanation.`;
  }
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
