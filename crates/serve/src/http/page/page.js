// The page: asks for the models with its reader's key, shows the one that is chosen, and has the figures follow.

import { element } from "./dom.js";
import { Figures } from "./figures.js";
import { named, showModels } from "./models.js";
import { Panel } from "./panel.js";
import { getJson, hasKey, post, setKey } from "./server.js";

const INTERVAL = 5000;
const LONGEST_INTERVAL = 30_000;

const part = (id) => document.getElementById(id);

const figures = new Figures(part("figures-tiles"), part("figures-problem"), part("figures-pause"));
// Panels stay as they are while others are looked at: a text half written, a conversation.
const panels = new Map();
let models = [];
let reasons = new Map();
let explained = "";
let rights;
let interval = INTERVAL;
let timer;

function chosen() {
    const wanted = named(location.hash);
    return models.find(({ name }) => name === wanted) ?? models[0];
}

// What a panel is made of. Another task, or other labels, make it another.
function made({ name, task, labels, chat, versions }) {
    return JSON.stringify([name, task, labels, chat, task ? versions.length > 1 && versions : 0]);
}

function show() {
    const model = chosen();
    showModels(part("models-list"), models, model?.name);
    figures.setModel(model?.name);
    document.title = model ? `${model.name} · Tidemill` : "Tidemill";
    if (!model) return;
    let entry = panels.get(model.name);
    if (entry?.made !== made(model)) {
        entry = { made: made(model), panel: new Panel(model) };
        panels.set(model.name, entry);
    }
    entry.panel.update(model, reasons);
    const place = part("try");
    if (place.firstElementChild !== entry.panel.node) place.replaceChildren(entry.panel.node);
}

function nothing() {
    const says =
        rights && !rights.infer ? "This key may use no model: it has no scope infer." : "There is no model here.";
    part("try").replaceChildren(element("p", { class: "quiet" }, says));
}

function setState(state, text) {
    const place = part("server-state");
    if (place.textContent === text) return;
    place.className = `state state-${state}`;
    place.textContent = text;
}

function askForKey(problem) {
    part("key").hidden = false;
    part("key-toggle").setAttribute("aria-expanded", "true");
    part("key-problem").textContent = problem;
    part("key-problem").hidden = !problem;
}

// Why a version is not there is the operator's to know: the index says it where the key and the server let it. Asked
// once for the same versions.
async function findReasons() {
    const missing = models.flatMap(({ name, versions }) =>
        versions.filter(({ state }) => state === "unavailable").map(({ version }) => `${name}/${version}`),
    );
    if (missing.join() === explained) return;
    explained = missing.join();
    reasons = new Map();
    if (missing.length === 0 || !rights.admin) return;
    try {
        const index = await post("/v2/repository/index", {});
        reasons = new Map(index.map(({ name, version, reason }) => [`${name}/${version}`, reason]));
    } catch (refused) {
        reasons = new Map(missing.map((version) => [version, `Why stands in the server's log: ${refused.message}.`]));
    }
}

function clear() {
    models = [];
    rights = undefined;
    explained = "";
    panels.clear();
    part("models-list").replaceChildren();
    part("try").replaceChildren();
}

// Whether what may be asked for has changed: another key, or another server.
function take(listing) {
    const before = JSON.stringify(rights);
    models = listing.models;
    rights = listing.may;
    setState(listing.ready ? "ready" : "unavailable", listing.ready ? "Ready" : "Not ready");
    part("server-version").textContent = listing.server_version;
    if (before !== JSON.stringify(rights)) {
        figures.begin(rights.metrics ? undefined : "This key may not read the figures: it has no scope metrics.");
    }
}

async function read() {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
        take(await getJson("/tidemill/models"));
        interval = INTERVAL;
        part("models-problem").hidden = true;
        await findReasons();
        if (models.length === 0) nothing();
        show();
    } catch (refused) {
        if (refused.status === 401) {
            clear();
            setState("unavailable", "Needs a key");
            figures.end("The figures need a key, too.");
            askForKey(
                hasKey() ? "The server does not know this key, or it has expired." : "This server asks for an API key.",
            );
            return;
        }
        if (refused.status === undefined) throw refused;
        setState("unavailable", refused.status === 0 ? "Out of reach" : "Refused");
        part("models-problem").textContent = refused.message;
        part("models-problem").hidden = false;
        interval = Math.min(Math.max(1000 * (refused.retryAfter ?? 0), 2 * interval), LONGEST_INTERVAL);
    }
    clearTimeout(timer);
    timer = setTimeout(read, interval);
}

part("key-toggle").addEventListener("click", () => {
    const form = part("key");
    form.hidden = !form.hidden;
    part("key-toggle").setAttribute("aria-expanded", String(!form.hidden));
    if (!form.hidden) part("key-value").focus();
});

part("key").addEventListener("submit", async (event) => {
    event.preventDefault();
    const value = part("key-value");
    setKey(value.value.trim(), part("key-keep").checked);
    value.value = "";
    part("key-problem").hidden = true;
    clear();
    await read();
    if (part("key-problem").hidden) {
        part("key").hidden = true;
        part("key-toggle").setAttribute("aria-expanded", "false");
        part("key-toggle").focus();
    } else {
        value.focus();
    }
});

part("key-forget").addEventListener("click", () => {
    setKey("", false);
    part("key-problem").hidden = true;
    clear();
    read();
});

addEventListener("hashchange", () => {
    if (!named(location.hash)) return;
    show();
    // Who follows a link by keyboard goes on in what it leads to.
    part("try").querySelector("h2")?.focus();
});

document.addEventListener("visibilitychange", () => {
    if (!document.hidden) read();
});

read();
