// Embedding: a vector for every text, shown by its first numbers and its norm, and how near each is to the first.

import { element } from "../dom.js";
import { named, openai, python, rustList, rustMessage } from "../samples.js";

/** Numbers shown of a vector. */
const SHOWN = 8;

export const embedding = {
    title: "Embedding",
    action: "Embed",

    fields: () => [
        {
            name: "texts",
            label: "Texts",
            kind: "lines",
            value: "The mill turns with the tide.\nWater drives the wheel.\nThe train is late.",
            hint: "One a line. Each is compared with the first.",
        },
    ],

    call: ({ name }, _, { texts }) => ({ path: "/v1/embeddings", body: { model: name, input: texts } }),

    show: ({ data }, { texts }) => {
        const vectors = data.map((row) => row.embedding);
        const row = (vector, index) =>
            element(
                "tr",
                {},
                element("th", { scope: "row" }, texts[index]),
                element(
                    "td",
                    { class: "numbers" },
                    `${vector
                        .slice(0, SHOWN)
                        .map((value) => value.toFixed(3))
                        .join(", ")}, …`,
                ),
                element("td", { class: "number" }, norm(vector).toFixed(3)),
                element("td", { class: "number" }, cosine(vectors[0], vector).toFixed(3)),
            );
        const head = ["Text", `First of ${vectors[0]?.length ?? 0} numbers`, "Norm", "Cosine"];
        return [
            element(
                "div",
                { class: "scrolling", tabindex: "0", role: "region", "aria-label": "Vectors" },
                element(
                    "table",
                    {},
                    element(
                        "thead",
                        {},
                        element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name))),
                    ),
                    element("tbody", {}, ...vectors.map(row)),
                ),
            ),
        ];
    },

    grpc: ({ name }, version, { texts }) => ({
        method: "tidemill.v1.Embedding/Embed",
        message: { ...named(name, version), texts },
    }),

    python: ({ name }, _, { texts }) =>
        openai([
            `answer = client.embeddings.create(model=${python(name)}, input=${python(texts)})`,
            "for row in answer.data:",
            "    print(row.embedding[:4])",
        ]),

    rust: ({ name }, version, { texts }) =>
        rustMessage({
            message: "EmbedRequest",
            model: name,
            version,
            fields: [`    texts: ${rustList(texts)},`],
            read: [
                "for vector in client.embed(request).await?.embeddings {",
                `    println!("{:?}", vector.values);`,
                "}",
            ],
        }),
};

function dot(left, right) {
    return left.reduce((total, value, index) => total + value * right[index], 0);
}

function norm(vector) {
    return Math.sqrt(dot(vector, vector));
}

function cosine(left, right) {
    return dot(left, right) / (norm(left) * norm(right));
}
