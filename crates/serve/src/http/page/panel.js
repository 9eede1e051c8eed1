// The place where one model is tried: what it is, a form for its task, the answer, and the same call in code.

import { Code } from "./code.js";
import { element, milliseconds, newId } from "./dom.js";
import { Fields } from "./form.js";
import { stateOf, stateMark } from "./models.js";
import { curl, grpcurl } from "./samples.js";
import { post } from "./server.js";
import { TASKS } from "./tasks.js";

/** A model's place. `update` tells it how the model stands now, and why where that is known. */
export class Panel {
    node;
    #versions;

    constructor(model) {
        const task = TASKS[model.task];
        const heading = newId("model");
        this.#versions = element("div", { class: "versions" });
        const nodes = task ? (task.panel?.(model) ?? tryOut(model, task)) : [notLoaded()];
        this.node = element(
            "article",
            { class: "panel", "aria-labelledby": heading },
            element(
                "header",
                {},
                element("p", { class: "kind" }, task?.title ?? "Not loaded"),
                element("h2", { id: heading, tabindex: "-1" }, model.name),
                this.#versions,
            ),
            ...nodes,
        );
        this.update(model, new Map());
    }

    update(model, reasons) {
        const line = ({ version, state }) => {
            const reason = reasons.get(`${model.name}/${version}`);
            return element(
                "li",
                {},
                `Version ${version} `,
                stateMark(state),
                reason ? element("span", { class: "quiet" }, ` ${reason}`) : null,
            );
        };
        const state =
            model.versions.length === 0
                ? element("p", {}, stateMark(stateOf(model)))
                : element("ul", {}, ...model.versions.map(line));
        this.#versions.replaceChildren(state);
    }
}

function notLoaded() {
    return element("p", {}, "This model lies in the repository and is not loaded. What it is for is known once it is.");
}

function tryOut(model, task) {
    const fields = new Fields(task.fields(model));
    const several = task.hasVersions && model.versions.length > 1;
    const choice = new Fields(several ? [versionField(model)] : []);
    const code = new Code();
    const answer = element("div", { class: "result" });
    const status = element("p", { class: "quiet", role: "status" });
    const problem = element("p", { class: "problem", role: "alert", hidden: true });
    const button = element("button", { type: "submit" }, task.action);
    const version = () => choice.values().version || undefined;

    const say = (text, wrong = "") => {
        status.textContent = text;
        problem.textContent = wrong;
        problem.hidden = !wrong;
    };

    const showCode = () => {
        const values = fields.values();
        try {
            code.show([
                { name: "curl", code: curl(task.call(model, version(), values)) },
                { name: "grpcurl", code: grpcurl(task.grpc(model, version(), values)) },
                { name: "Python", code: task.python(model, version(), values) },
                { name: "Rust", code: task.rust(model, version(), values) },
            ]);
        } catch {
            // What is being written is not a request yet. The samples of before stay.
        }
    };

    const submit = async (event) => {
        event.preventDefault();
        if (button.disabled) return;
        const values = fields.values();
        button.disabled = true;
        say("Asking…");
        const started = performance.now();
        try {
            const { path, body } = task.call(model, version(), values);
            const answered = await post(path, body);
            const took = performance.now() - started;
            answer.replaceChildren(...task.show(answered, values, model));
            say(`Answered in ${milliseconds(took)}`);
        } catch (error) {
            answer.replaceChildren();
            say("", error.message);
        }
        button.disabled = false;
    };

    // Ctrl+Enter sends from within a text, too.
    const key = (event) => {
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.requestSubmit();
    };

    const form = element(
        "form",
        { class: "try", onsubmit: submit, oninput: showCode, onkeydown: key },
        ...fields.nodes,
        ...choice.nodes,
        element("div", { class: "actions" }, button, status),
    );
    task.prepare?.(model).then(
        (values) => {
            for (const [name, value] of Object.entries(values)) fields.control(name).value ||= value;
            showCode();
        },
        (error) => say("", error.message),
    );
    showCode();
    const [answerHeading, codeHeading] = [newId("answer"), newId("code-heading")];
    return [
        form,
        element(
            "section",
            { "aria-labelledby": answerHeading, class: "answers" },
            element("h3", { id: answerHeading }, "Answer"),
            problem,
            answer,
        ),
        element(
            "section",
            { "aria-labelledby": codeHeading },
            element("h3", { id: codeHeading }, "The same call"),
            code.node,
        ),
    ];
}

function versionField({ versions }) {
    const ready = versions.filter(({ state }) => state === "ready").map(({ version }) => [version, version]);
    return {
        name: "version",
        label: "Version",
        kind: "choice",
        value: "",
        options: [["", "As the server chooses"], ...ready],
    };
}
