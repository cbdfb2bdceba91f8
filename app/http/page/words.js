// What went wrong, as one says it to a person. The service's own words stay beside it, for whoever runs it.

/**
 * A photo without an answer.
 *
 * `message` is for a person; `status` and `problem` (RFC 9457) are the service's answer, 0 and null if there was none.
 */
export class Failure extends Error {
  constructor(message, status = 0, problem = null) {
    super(message);
    this.status = status;
    this.problem = problem;
  }

  /** What the service said itself, on one line; empty if it said nothing. */
  get said() {
    const { detail, request_id: id } = this.problem ?? {};
    return [detail, id && `Request ${id}.`].filter(Boolean).join(" ");
  }
}

/** By the last part of a problem's type. */
const PROBLEMS = {
  "not-an-image": "This file is not a picture that the service can read. JPEG, PNG, WebP, AVIF, GIF, BMP and TIFF work.",
  "broken-image": "This picture is damaged or incomplete. Copy or save it again, then try again.",
  "too-many-pixels": "This picture has more pixels than the service takes. Make it smaller, then try again.",
  "unknown-host": "The service does not go by this address. Ask whoever runs it which one to use.",
  "internal-error": "The service made a mistake with this picture. If it does so again, tell whoever runs it.",
  "not-explainable": "This model cannot show what in a picture speaks for a label.",
};
/** By status: what proxies say themselves, and problems that are not listed above. */
const STATUSES = {
  403: "Something between here and the service does not let this page through. Ask whoever runs it.",
  404: "There is no classifier at this address any more. Reload this page.",
  405: "There is no classifier at this address any more. Reload this page.",
  408: "The picture took too long to arrive. Try again where the network is better, or send a smaller one.",
  415: PROBLEMS["not-an-image"],
  422: "The service cannot make anything of this picture.",
  502: "Something between here and the service gets no answer from it. Try again in a moment.",
  504: "Something between here and the service gets no answer from it. Try again in a moment.",
};
const HEIC = "This is a HEIC photo, which this service cannot read. Send it as JPEG; an iPhone takes JPEG when Settings, Camera, Formats says “Most Compatible”.";

/** What an answer that is no success means. */
export function refused(status, problem, file, keyed = false) {
  return new Failure(sentence(status, problem, file, keyed), status, problem);
}

/** No answer came although the service is there; one that refuses a large body may hang up before it is heard. */
export function silent(file) {
  return new Failure(`The service did not take this file. It may be too large (${megabytes(file)}); try a smaller one.`);
}

/** The browser cannot read the file any more. */
export function unreadable() {
  return new Failure("This file cannot be read: it was moved or changed, or it is a folder. Choose it again.");
}

function sentence(status, problem, file, keyed) {
  const slug = String(problem?.type ?? "").replace(/.*:/, "");
  if (status === 401) return keyed ? "The service does not know this API key." : "This service asks for an API key.";
  if (file.size === 0) return "This file is empty. Choose another one.";
  if (slug === "not-an-image" && /\ban? HEI[CF] |extra 'heic'/.test(problem.detail)) return HEIC;
  if (Object.hasOwn(PROBLEMS, slug)) return PROBLEMS[slug];
  if (status === 413) return `This file is too large to be sent (${megabytes(file)}). Try a smaller one.`;
  return STATUSES[status] ?? `The service gave no answer (error ${status}). If it does so again, tell whoever runs it.`;
}

function megabytes({ size }) {
  return `${(size / 1e6).toFixed(1)} MB`;
}
