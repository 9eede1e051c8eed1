// Text classification: every text's labels with their probabilities, the most probable first.

import { element } from "../dom.js";
import { inferPath, named, rustList, rustMessage, textTensor, triton, tritonTexts } from "../samples.js";

/** Labels shown of a text. */
const SHOWN = 10;

export const textClassification = {
    title: "Text classification",
    action: "Classify",
    hasVersions: true,

    fields: () => [
        {
            name: "texts",
            label: "Texts",
            kind: "lines",
            value: "a fine film\na dull one",
            hint: "One a line.",
        },
    ],

    call: ({ name }, version, { texts }) => ({
        path: inferPath(name, version),
        body: { inputs: [textTensor("text", texts)] },
    }),

    show: ({ outputs }, { texts }, { labels = [] }) => {
        const probabilities = outputs.find(({ name }) => name === "probabilities").data.flat();
        const count = labels.length;
        return texts.map((text, index) => {
            const row = probabilities.slice(index * count, (index + 1) * count);
            const ranked = row.map((probability, label) => ({ label: labels[label], probability }));
            ranked.sort((left, right) => right.probability - left.probability);
            return element(
                "figure",
                { class: "classified" },
                element("figcaption", {}, text),
                element("ol", { class: "bars" }, ...ranked.slice(0, SHOWN).map(bar)),
                ranked.length > SHOWN
                    ? element("p", { class: "quiet" }, `and ${ranked.length - SHOWN} more labels`)
                    : null,
            );
        });
    },

    grpc: ({ name }, version, { texts }) => ({
        method: "tidemill.v1.TextClassification/Classify",
        message: { ...named(name, version), texts },
    }),

    python: ({ name }, version, { texts }) =>
        triton({
            model: name,
            version,
            inputs: [["text", "BYTES", tritonTexts(texts)]],
            read: [
                `for label, probabilities in zip(answer.as_numpy("label"), answer.as_numpy("probabilities")):`,
                "    print(label.decode(), probabilities)",
            ],
        }),

    rust: ({ name }, version, { texts }) =>
        rustMessage({
            message: "ClassifyRequest",
            model: name,
            version,
            fields: [`    texts: ${rustList(texts)},`],
            read: [
                "for text in client.classify(request).await?.classifications {",
                "    for label in text.labels {",
                `        println!("{} {:.3}", label.label, label.probability);`,
                "    }",
                "}",
            ],
        }),
};

function bar({ label, probability }) {
    return element(
        "li",
        {},
        element("span", { class: "bar-name" }, label),
        element("progress", { max: 1, value: probability, "aria-hidden": "true" }),
        element("span", { class: "bar-value" }, `${(100 * probability).toFixed(1)} %`),
    );
}
