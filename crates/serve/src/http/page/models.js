// The models of this server: asked for every few seconds, shown as links, with how it stands with each.

import { element } from "./dom.js";
import { TASKS } from "./tasks.js";

const STATES = { ready: "Ready", loading: "Loading", unloading: "Unloading", unavailable: "Unavailable" };

/** How it stands with a model: as with the best of its versions. */
export function stateOf({ versions }) {
    const order = ["ready", "loading", "unloading"];
    return order.find((state) => versions.some((version) => version.state === state)) ?? "unavailable";
}

/** A state in colour and in words. */
export function stateMark(state) {
    return element("span", { class: `state state-${state}` }, STATES[state] ?? state);
}

/** Where a model's link leads. */
export function linkTo(name) {
    return `#model/${encodeURIComponent(name)}`;
}

/** The name of the model that an address leads to, if it leads to one. */
export function named(hash) {
    if (!hash.startsWith("#model/")) return undefined;
    try {
        return decodeURIComponent(hash.slice("#model/".length));
    } catch {
        return undefined;
    }
}

/** Shows the models in a list, changing only what changed, so that the focus stays where it is. */
export function showModels(list, models, chosen) {
    const links = new Map([...list.querySelectorAll("a")].map((link) => [link.hash, link]));
    const items = models.map((model) => {
        const link = links.get(linkTo(model.name)) ?? element("a", { href: linkTo(model.name) });
        const versions = model.versions.map(({ version }) => version).join(", ");
        const about = [TASKS[model.task]?.title ?? "Not loaded", versions && `version ${versions}`]
            .filter(Boolean)
            .join(" · ");
        const state = stateOf(model);
        const said = `${model.name}\n${about}\n${state}`;
        if (link.dataset.said !== said) {
            link.dataset.said = said;
            link.replaceChildren(
                element("span", { class: "name" }, model.name),
                stateMark(state),
                element("span", { class: "quiet" }, about),
            );
        }
        if (model.name === chosen) {
            link.setAttribute("aria-current", "true");
        } else {
            link.removeAttribute("aria-current");
        }
        return link.parentElement ?? element("li", {}, link);
    });
    const same = items.length === list.children.length && items.every((item, index) => item === list.children[index]);
    if (!same) list.replaceChildren(...items);
}
