// Elements. Text becomes text nodes and nothing else, so that no answer of a model is ever taken for markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: attributes, `on…` listeners and the property `value`, then children, where strings are text. */
export function element(tag, attributes = {}, ...children) {
    return filled(document.createElement(tag), attributes, children);
}

/** The same within a drawing. */
export function drawing(tag, attributes = {}, ...children) {
    return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
        if (name.startsWith("on")) {
            node.addEventListener(name.slice(2), value);
        } else if (name === "value") {
            node.value = value;
        } else if (value === true) {
            node.setAttribute(name, "");
        } else if (value !== false && value !== undefined && value !== null) {
            node.setAttribute(name, String(value));
        }
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
}

let count = 0;

/** A name for an element that another one refers to. */
export function newId(prefix) {
    count += 1;
    return `${prefix}-${count}`;
}

/** A number of milliseconds as people read it. */
export function milliseconds(ms) {
    if (!Number.isFinite(ms)) return "–";
    if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
    if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
    if (ms >= 100) return `${Math.round(ms)} ms`;
    return `${ms.toFixed(ms >= 10 ? 1 : 2)} ms`;
}

/** A count or a rate as people read it. */
export function amount(number) {
    if (!Number.isFinite(number)) return "–";
    if (number >= 1000) return Math.round(number).toLocaleString("en");
    return number === Math.round(number) ? String(number) : number.toFixed(number >= 100 ? 0 : number >= 10 ? 1 : 2);
}
