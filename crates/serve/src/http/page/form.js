// The fields of a form, each with its label and, where it helps, a hint; and what stands in them.

import { element, newId } from "./dom.js";

/**
 * The fields that `descriptions` describe: `{ name, label, kind, value, hint, … }`, where `kind` is `text`,
 * `paragraph`, `lines` (one value a line), `number`, `choice` or `json`. One with `when: [name, value]` is shown only
 * while that value stands in a field before it.
 */
export class Fields {
    nodes;
    #controls = new Map();

    constructor(descriptions) {
        this.nodes = descriptions.map((description) => this.#field(description));
    }

    /** What stands in them, by name: lists for `lines`, numbers or nothing for `number`. */
    values() {
        const values = {};
        for (const [name, { control, kind }] of this.#controls) {
            const text = control.value;
            if (kind === "lines") {
                values[name] = text.split("\n").filter((line) => line.trim() !== "");
            } else if (kind === "number") {
                values[name] = text.trim() === "" ? undefined : Number(text);
            } else {
                values[name] = text;
            }
        }
        return values;
    }

    /** The control of a field. */
    control(name) {
        return this.#controls.get(name)?.control;
    }

    #field({ name, label, kind, value = "", hint, options = [], rows = 3, when, ...rest }) {
        const id = newId("field");
        const hintId = hint && `${id}-hint`;
        const attributes = { id, name, "aria-describedby": hintId, autocomplete: "off", ...rest };
        let control;
        if (kind === "choice") {
            const option = ([own, text]) => element("option", { value: own, selected: own === value }, text);
            control = element("select", attributes, ...options.map(option));
        } else if (kind === "text" || kind === "number") {
            control = element("input", { type: kind, value, ...attributes });
        } else {
            control = element("textarea", {
                rows,
                value,
                spellcheck: kind === "json" ? "false" : undefined,
                ...attributes,
            });
        }
        this.#controls.set(name, { control, kind });
        const field = element(
            "div",
            { class: `field field-${kind}` },
            element("label", { for: id }, label),
            control,
            hint ? element("p", { id: hintId, class: "quiet" }, hint) : null,
        );
        if (when) this.#showOnly(field, when);
        return field;
    }

    #showOnly(field, [name, value]) {
        const other = this.control(name);
        const decide = () => (field.hidden = other.value !== value);
        other.addEventListener("input", decide);
        decide();
    }
}
