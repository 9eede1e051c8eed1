// Generation: a conversation, or the continuation of a text, written as it comes over server-sent events.

import { Code } from "../code.js";
import { element, milliseconds, newId } from "../dom.js";
import { Fields } from "../form.js";
import { curl, grpcurl, named, openai, python, rust, rustNamed, rustProgram } from "../samples.js";
import { postForEvents } from "../server.js";

const EXAMPLES = { chat: "What is a tide mill?", text: "A tide mill is" };

/** A generator is tried in a place of its own. */
export const generation = {
    title: "Text generation",
    panel: (model) => new Conversation(model).nodes,
};

class Conversation {
    nodes;
    #model;
    #fields;
    #settings;
    #log;
    #status;
    #problem;
    #code = new Code();
    #send;
    #stop;
    #messages = [];
    #running;

    constructor(model) {
        this.#model = model;
        const way = {
            name: "way",
            label: "Mode",
            kind: "choice",
            value: "chat",
            options: [
                ["chat", "Conversation"],
                ["text", "Continue a text"],
            ],
        };
        const message = {
            name: "message",
            label: "Message",
            kind: "paragraph",
            rows: 2,
            placeholder: model.chat ? EXAMPLES.chat : EXAMPLES.text,
            hint: "Enter sends, Shift+Enter begins a new line.",
            required: true,
        };
        this.#fields = new Fields([...(model.chat ? [way] : []), message]);
        this.#settings = new Fields([
            ...(model.chat ? [{ name: "system", label: "System prompt", kind: "paragraph", rows: 2 }] : []),
            { name: "max_tokens", label: "Most tokens", kind: "number", value: "200", min: 1, step: 1 },
            {
                name: "temperature",
                label: "Temperature",
                kind: "number",
                min: 0,
                step: "any",
                hint: "Empty: the model's own.",
            },
        ]);
        this.#log = element("div", {
            class: "log",
            role: "log",
            "aria-label": "Conversation",
            tabindex: "0",
            hidden: true,
        });
        this.#status = element("p", { class: "quiet", role: "status" });
        this.#problem = element("p", { class: "problem", role: "alert", hidden: true });
        this.#send = element("button", { type: "submit" }, "Send");
        this.#stop = element(
            "button",
            { type: "button", class: "plain", hidden: true, onclick: () => this.#running?.abort() },
            "Stop",
        );
        const clear = element(
            "button",
            { type: "button", class: "plain", onclick: () => this.#clear() },
            "Begin again",
        );
        const form = element(
            "form",
            {
                class: "try",
                onsubmit: (event) => this.#submit(event),
                oninput: () => this.#showCode(),
                onkeydown: (event) => this.#key(event),
            },
            ...this.#fields.nodes,
            element(
                "details",
                {},
                element("summary", {}, "Settings"),
                element("div", { class: "settings" }, ...this.#settings.nodes),
            ),
            element("div", { class: "actions" }, this.#send, this.#stop, clear, this.#status),
        );
        const codeHeading = newId("code-heading");
        this.nodes = [
            this.#log,
            this.#problem,
            form,
            element(
                "section",
                { "aria-labelledby": codeHeading },
                element("h3", { id: codeHeading }, "The same call"),
                this.#code.node,
            ),
        ];
        this.#showCode();
    }

    get #values() {
        return { ...this.#fields.values(), ...this.#settings.values() };
    }

    get #isChat() {
        return Boolean(this.#model.chat) && this.#values.way === "chat";
    }

    // The request that this message makes, after those of before.
    #call(message) {
        const { system, max_tokens, temperature } = this.#values;
        const shared = {
            model: this.#model.name,
            ...(max_tokens && { max_tokens }),
            ...(temperature !== undefined && { temperature }),
        };
        const streamed = { stream: true, stream_options: { include_usage: true } };
        if (!this.#isChat) {
            return { path: "/v1/completions", body: { ...shared, prompt: message, ...streamed }, streams: true };
        }
        const first = system?.trim() ? [{ role: "system", content: system }] : [];
        const messages = [...first, ...this.#messages, { role: "user", content: message }];
        return { path: "/v1/chat/completions", body: { ...shared, messages, ...streamed }, streams: true };
    }

    #showCode() {
        const message = this.#fields.control("message");
        message.placeholder = this.#isChat ? EXAMPLES.chat : EXAMPLES.text;
        const call = this.#call(message.value || message.placeholder);
        this.#code.show([
            { name: "curl", code: curl(call) },
            { name: "grpcurl", code: grpcurl(overGrpc(call)) },
            { name: "Python", code: inPython(call) },
            { name: "Rust", code: inRust(call) },
        ]);
    }

    #key(event) {
        if (
            event.key === "Enter" &&
            !event.shiftKey &&
            !event.isComposing &&
            event.target === this.#fields.control("message")
        ) {
            event.preventDefault();
            event.currentTarget.requestSubmit();
        }
    }

    #clear() {
        this.#running?.abort();
        this.#messages = [];
        this.#log.replaceChildren();
        this.#log.hidden = true;
        this.#say("", "");
        this.#showCode();
        this.#fields.control("message").focus();
    }

    #say(status, problem) {
        this.#status.textContent = status;
        this.#problem.textContent = problem;
        this.#problem.hidden = !problem;
    }

    async #submit(event) {
        event.preventDefault();
        const control = this.#fields.control("message");
        const message = control.value;
        if (this.#running || message.trim() === "") return;
        const isChat = this.#isChat;
        const call = this.#call(message);
        const { answer, turns } = this.#write(isChat, message);
        if (isChat) control.value = "";
        const running = new AbortController();
        this.#running = running;
        this.#stop.hidden = false;
        this.#send.disabled = true;
        // Told as a whole once it is there, not piece by piece.
        this.#log.setAttribute("aria-busy", "true");
        this.#say("Writing…", "");
        const started = performance.now();
        let first;
        let usage;
        try {
            for await (const chunk of postForEvents(call.path, call.body, running.signal)) {
                usage = chunk.usage ?? usage;
                const [choice] = chunk.choices;
                const piece = isChat ? choice?.delta?.content : choice?.text;
                if (!piece) continue;
                first ??= performance.now();
                answer.append(piece);
                this.#log.scrollTop = this.#log.scrollHeight;
            }
            this.#say(speed(started, first, usage), "");
        } catch (error) {
            this.#say(error.name === "AbortError" ? "Stopped" : "", error.name === "AbortError" ? "" : error.message);
            if (!answer.textContent) turns.forEach((turn) => turn.remove());
            if (!answer.textContent && isChat) control.value = message;
        }
        if (isChat && answer.textContent && this.#running === running) {
            this.#messages.push({ role: "user", content: message }, { role: "assistant", content: answer.textContent });
        }
        this.#log.hidden = !this.#log.hasChildNodes();
        if (this.#running === running) this.#running = undefined;
        this.#log.removeAttribute("aria-busy");
        this.#stop.hidden = true;
        this.#send.disabled = false;
        this.#showCode();
    }

    // Shows the message and a place for what is written after it.
    #write(isChat, message) {
        const turn = (name, kind, content) =>
            element("article", { class: `turn ${kind}` }, element("h4", {}, name), content);
        const answer = element(isChat ? "p" : "span", { class: "written" });
        const asked = element(isChat ? "p" : "span", { class: isChat ? "written" : "prompt" }, message);
        const turns = isChat
            ? [turn("You", "user", asked), turn(this.#model.name, "assistant", answer)]
            : [turn(this.#model.name, "assistant", element("p", { class: "written" }, asked, answer))];
        this.#log.append(...turns);
        this.#log.hidden = false;
        this.#log.scrollTop = this.#log.scrollHeight;
        return { answer, turns };
    }
}

function speed(started, first, usage) {
    const ended = performance.now();
    const tokens = usage?.completion_tokens;
    const parts = [`Written in ${milliseconds(ended - started)}`];
    if (first !== undefined) parts.push(`first piece after ${milliseconds(first - started)}`);
    if (tokens) parts.push(`${tokens} tokens`);
    if (tokens > 1 && first !== undefined && ended > first) {
        parts.push(`${((1000 * (tokens - 1)) / (ended - first)).toFixed(1)} a second`);
    }
    return parts.join(" · ");
}

function sampling({ max_tokens, temperature }) {
    return { ...(max_tokens && { max_tokens }), ...(temperature !== undefined && { temperature }) };
}

function overGrpc({ body }) {
    const { model, messages, prompt } = body;
    const chosen = Object.keys(sampling(body)).length > 0 && { sampling: sampling(body) };
    return messages
        ? { method: "tidemill.v1.Chat/CompleteStream", message: { ...named(model), messages, ...chosen } }
        : { method: "tidemill.v1.Generation/GenerateStream", message: { ...named(model), prompt, ...chosen } };
}

function inPython({ body }) {
    const { model, messages, prompt } = body;
    const asked = messages
        ? ["    messages=[", ...messages.map((message) => `        ${python(message)},`), "    ],"]
        : [`    prompt=${python(prompt)},`];
    const piece = messages ? "chunk.choices[0].delta.content" : "chunk.choices[0].text";
    return openai([
        `chunks = client.${messages ? "chat.completions" : "completions"}.create(`,
        `    model=${python(model)},`,
        ...asked,
        ...Object.entries(sampling(body)).map(([name, value]) => `    ${name}=${python(value)},`),
        "    stream=True,",
        ")",
        "for chunk in chunks:",
        `    print(${piece} or "", end="", flush=True)`,
        "print()",
    ]);
}

function inRust({ body }) {
    const { model, messages, prompt } = body;
    const chosen = sampling(body);
    const number = (name, value) =>
        name === "temperature" && Number.isInteger(value) ? value.toFixed(1) : String(value);
    const options = [
        "let sampling = Sampling {",
        ...Object.entries(chosen).map(([name, value]) => `    ${name}: Some(${number(name, value)}),`),
        "    ..Sampling::default()",
        "};",
    ];
    const message = ({ role, content }) =>
        `    ChatMessage { role: ${rust(role)}.into(), content: ${rust(content)}.into(), ..ChatMessage::default() },`;
    const [request, method, piece] = messages
        ? ["ChatRequest", "chat_stream", "content"]
        : ["GenerateRequest", "generate_stream", "text"];
    const asked = messages ? "    messages," : `    input: Some(Input::Prompt(${rust(prompt)}.into())),`;
    return rustProgram(
        [
            ...(messages ? [] : ["tidemill_client::v1::generate_request::Input"]),
            `tidemill_client::v1::{${messages ? "ChatMessage, ChatRequest" : "GenerateRequest"}, Sampling}`,
            "tidemill_client::{Client, ClientOptions}",
        ],
        [
            ...(messages ? ["let messages = vec![", ...messages.map(message), "];"] : []),
            ...options,
            `let request = ${request} {`,
            ...rustNamed(model),
            asked,
            "    sampling: Some(sampling),",
            `    ..${request}::default()`,
            "};",
            `let mut pieces = client.${method}(request).await?;`,
            "while let Some(piece) = pieces.next().await {",
            `    print!("{}", piece?.${piece});`,
            "}",
            "println!();",
        ],
    );
}
