// Calls of this page's own server, with its reader's key. The key stands in a header, never in an address, and is kept
// in memory; in the tab's session storage if its reader wants that.

const STORED = "tidemill-key";

let key = stored((storage) => storage.getItem(STORED)) ?? "";

/** Whether there is a key. */
export function hasKey() {
    return key !== "";
}

/** Takes a key, or lets go of it if it is empty. */
export function setKey(value, keep) {
    key = value;
    stored((storage) => (value && keep ? storage.setItem(STORED, value) : storage.removeItem(STORED)));
}

// A browser may be told to keep nothing, and then says so by an error.
function stored(use) {
    try {
        return use(sessionStorage);
    } catch {
        return undefined;
    }
}

/** A refusal: its HTTP status, what is wrong, with the field that the server names, and when to come back. */
export class Refused extends Error {
    constructor(status, message, field, retryAfter) {
        super(field && !message.startsWith(field) ? `${field}: ${message}` : message);
        this.status = status;
        this.retryAfter = retryAfter;
    }
}

/** The address of a path on this server, also where a proxy serves it below a path of its own. */
export function address(path) {
    return new URL(`.${path}`, document.baseURI);
}

async function send(path, options = {}) {
    const headers = { ...options.headers };
    if (key) headers.Authorization = `Bearer ${key}`;
    const request = { cache: "no-store", credentials: "omit", redirect: "error", ...options, headers };
    let response;
    try {
        response = await fetch(address(path), request);
    } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new Refused(0, "The server cannot be reached.");
    }
    if (!response.ok) throw await refused(response);
    return response;
}

// The interfaces have three shapes of errors.
async function refused(response) {
    const text = await response.text();
    let message = text.slice(0, 500) || `The server answered with the status ${response.status}.`;
    let field;
    try {
        const { error } = JSON.parse(text);
        message = error?.message ?? error ?? message;
        field = error?.param ?? undefined;
    } catch {
        // What is not JSON is shown as it is.
    }
    return new Refused(response.status, message, field, Number(response.headers.get("Retry-After")) || undefined);
}

/** The text of what is at a path. */
export async function getText(path) {
    return (await send(path)).text();
}

/** The JSON of what is at a path. */
export async function getJson(path) {
    return (await send(path)).json();
}

function posted(body, signal) {
    return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

/** What is answered to a JSON body. */
export async function post(path, body) {
    return (await send(path, posted(body))).json();
}

/** The objects that are answered to a JSON body one after another, as server-sent events. */
export async function* postForEvents(path, body, signal) {
    const response = await send(path, posted(body, signal));
    const pieces = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
        const { done, value } = await pieces.read();
        if (done) return;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
            if (!line.startsWith("data: ")) continue;
            const data = line.slice("data: ".length);
            if (data === "[DONE]") return;
            const object = JSON.parse(data);
            if (object.error) throw new Refused(200, object.error.message, object.error.param);
            yield object;
        }
    }
}
