// Summaries and translations.

import { element } from "../dom.js";
import {
    inferPath,
    named,
    rust,
    rustList,
    rustNamed,
    rustProgram,
    textTensor,
    triton,
    tritonTexts,
} from "../samples.js";

const [SUMMARY, TRANSLATION] = ["summary", "translation"];

const EXAMPLE =
    "A tide mill is driven by the rise and fall of the sea. A dam with a gate keeps the water of high tide in a pond; " +
    "as the sea falls, the water runs out over a wheel.";

export const textToText = {
    title: "Summaries and translations",
    action: "Write",
    hasVersions: true,

    fields: () => [
        {
            name: "purpose",
            label: "What to write",
            kind: "choice",
            value: SUMMARY,
            options: [
                [SUMMARY, "A summary"],
                [TRANSLATION, "A translation"],
            ],
            hint: "Which of the two a model can do depends on how it was trained.",
        },
        {
            name: "text",
            label: "Text",
            kind: "paragraph",
            rows: 5,
            required: true,
            value: EXAMPLE,
        },
        {
            name: "source",
            label: "From",
            kind: "text",
            when: ["purpose", TRANSLATION],
            hint: "A language as the model names it: en, eng_Latn…",
        },
        {
            name: "target",
            label: "To",
            kind: "text",
            when: ["purpose", TRANSLATION],
            hint: "May be empty where the model has one language.",
        },
        { name: "max_tokens", label: "Most tokens", kind: "number", value: "60", min: 1, step: 1 },
    ],

    call: ({ name }, version, values) => ({
        path: inferPath(name, version),
        body: { parameters: parameters(values), inputs: [textTensor("text", [values.text])] },
    }),

    show: ({ outputs }) => {
        const texts = outputs.find(({ name }) => name === "generated_text").data;
        return texts.map((text) => element("p", { class: "answer written" }, text));
    },

    grpc: ({ name }, version, values) => ({
        method: `tidemill.v1.TextToText/${isSummary(values) ? "Summarise" : "Translate"}`,
        message: {
            ...named(name, version),
            texts: [values.text],
            ...(!isSummary(values) && { source_language: values.source, target_language: values.target }),
            ...(values.max_tokens && { options: { max_tokens: values.max_tokens } }),
        },
    }),

    python: ({ name }, version, values) =>
        triton({
            model: name,
            version,
            parameters: parameters(values),
            inputs: [["text", "BYTES", tritonTexts([values.text])]],
            read: [`print(answer.as_numpy("generated_text")[0].decode())`],
        }),

    rust: ({ name }, version, values) => {
        const [request, method] = isSummary(values)
            ? ["SummariseRequest", "summarise"]
            : ["TranslateRequest", "translate"];
        const languages = [
            `    source_language: ${rust(values.source)}.into(),`,
            `    target_language: ${rust(values.target)}.into(),`,
        ];
        const options = [
            "    options: Some(TextToTextOptions {",
            `        max_tokens: ${values.max_tokens},`,
            "        ..TextToTextOptions::default()",
            "    }),",
        ];
        const uses = values.max_tokens ? `{${request}, TextToTextOptions}` : request;
        return rustProgram(
            [`tidemill_client::v1::${uses}`, "tidemill_client::{Client, ClientOptions}"],
            [
                `let request = ${request} {`,
                ...rustNamed(name, version),
                `    texts: ${rustList([values.text])},`,
                ...(isSummary(values) ? [] : languages),
                ...(values.max_tokens ? options : []),
                `    ..${request}::default()`,
                "};",
                `for text in client.${method}(request).await?.texts {`,
                `    println!("{text}");`,
                "}",
            ],
        );
    },
};

function isSummary({ purpose }) {
    return purpose === SUMMARY;
}

// A request with a language is one for a translation.
function parameters(values) {
    const { source, target, max_tokens } = values;
    const languages = isSummary(values) ? {} : { source_language: source, target_language: target };
    return { ...languages, ...(max_tokens && { max_tokens }) };
}
