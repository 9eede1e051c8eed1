// Reranking: texts by how well they answer a query, the best first.

import { element } from "../dom.js";
import { named, rust, rustList, rustMessage, triton, tritonTexts } from "../samples.js";

export const rerank = {
    title: "Reranking",
    action: "Rank",

    fields: () => [
        { name: "query", label: "Query", kind: "text", value: "What drives a tide mill?", required: true },
        {
            name: "texts",
            label: "Texts",
            kind: "lines",
            value: "A dam keeps the water of high tide, which drives the wheel as it runs out.\nThe train is late.",
            hint: "One a line.",
        },
    ],

    call: ({ name }, _, { query, texts }) => ({ path: "/v1/rerank", body: { model: name, query, texts } }),

    show: (ranking, { texts }) => {
        const rank = ({ index, score }) =>
            element(
                "li",
                {},
                element("span", { class: "bar-name" }, texts[index]),
                element("progress", { max: 1, value: score, "aria-hidden": "true" }),
                element("span", { class: "bar-value" }, score.toFixed(4)),
            );
        return [element("ol", { class: "bars ranked" }, ...ranking.map(rank))];
    },

    grpc: ({ name }, version, { query, texts }) => ({
        method: "tidemill.v1.Embedding/Rerank",
        message: { ...named(name, version), query, texts },
    }),

    python: ({ name }, version, { query, texts }) =>
        triton({
            model: name,
            version,
            inputs: [
                ["query", "BYTES", tritonTexts([query])],
                ["text", "BYTES", tritonTexts(texts)],
            ],
            read: [`print(answer.as_numpy("score"))`],
        }),

    rust: ({ name }, version, { query, texts }) =>
        rustMessage({
            message: "RerankRequest",
            model: name,
            version,
            fields: [`    query: ${rust(query)}.into(),`, `    texts: ${rustList(texts)},`],
            read: [
                "for text in client.rerank(request).await?.ranking {",
                `    println!("{} {:.4}", text.index, text.score);`,
                "}",
            ],
        }),
};
