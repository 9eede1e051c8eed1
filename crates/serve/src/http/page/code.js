// Code in several languages, one of them shown, each to be copied. Tabs as the ARIA practices have them: arrows move.

import { element, newId } from "./dom.js";

// The language that was looked at last, for every model.
let chosen = "curl";

/** A place for samples; `show` fills it with `[{ name, code }, …]`. */
export class Code {
    node;
    #tabs;
    #panel;
    #copied;
    #samples = [];

    constructor() {
        const panel = newId("code");
        this.#tabs = element("div", {
            role: "tablist",
            "aria-label": "Language",
            class: "tabs",
            onkeydown: (event) => this.#move(event),
        });
        this.#panel = element("pre", { role: "tabpanel", id: panel, tabindex: "0" });
        this.#copied = element("span", { role: "status", class: "quiet" });
        const copy = element("button", { type: "button", class: "plain", onclick: () => this.#copy() }, "Copy");
        const bar = element(
            "div",
            { class: "code-bar" },
            this.#tabs,
            element("div", { class: "copying" }, this.#copied, copy),
        );
        this.node = element("div", { class: "code" }, bar, this.#panel);
    }

    show(samples) {
        this.#samples = samples;
        if (this.#tabs.children.length !== samples.length) {
            const tab = ({ name }) =>
                element(
                    "button",
                    {
                        type: "button",
                        role: "tab",
                        id: newId("tab"),
                        "aria-controls": this.#panel.id,
                        onclick: () => this.#choose(name),
                    },
                    name,
                );
            this.#tabs.replaceChildren(...samples.map(tab));
        }
        this.#render();
    }

    #index() {
        return Math.max(
            this.#samples.findIndex(({ name }) => name === chosen),
            0,
        );
    }

    #choose(name) {
        chosen = name;
        this.#copied.textContent = "";
        this.#render();
    }

    #render() {
        const index = this.#index();
        [...this.#tabs.children].forEach((tab, own) => {
            tab.setAttribute("aria-selected", String(own === index));
            tab.tabIndex = own === index ? 0 : -1;
        });
        this.#panel.setAttribute("aria-labelledby", this.#tabs.children[index]?.id ?? "");
        this.#panel.textContent = this.#samples[index]?.code ?? "";
    }

    #move(event) {
        const steps = {
            ArrowRight: 1,
            ArrowLeft: -1,
            Home: -this.#index(),
            End: this.#samples.length - 1 - this.#index(),
        };
        const step = steps[event.key];
        if (step === undefined) return;
        event.preventDefault();
        const count = this.#samples.length;
        const next = (this.#index() + step + count) % count;
        this.#choose(this.#samples[next].name);
        this.#tabs.children[next].focus();
    }

    async #copy() {
        const code = this.#panel.textContent;
        try {
            await navigator.clipboard.writeText(code);
            this.#copied.textContent = "Copied";
        } catch {
            // Browsers give a clipboard to TLS and to this machine alone. Elsewhere the code is selected for the reader.
            getSelection().selectAllChildren(this.#panel);
            this.#copied.textContent = "Selected: copy with Ctrl+C";
        }
    }
}
