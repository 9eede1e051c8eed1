// Entities: the spans of a text that name something, marked where they stand.

import { element } from "../dom.js";
import { inferPath, named, rustList, rustMessage, textTensor, triton, tritonTexts } from "../samples.js";

export const entities = {
    title: "Entities",
    action: "Find",
    hasVersions: true,

    fields: () => [
        {
            name: "texts",
            label: "Texts",
            kind: "lines",
            value: "Ada Lovelace was born in London.",
            hint: "One a line.",
        },
    ],

    call: ({ name }, version, { texts }) => ({
        path: inferPath(name, version),
        body: { inputs: [textTensor("text", texts)] },
    }),

    show: ({ outputs }, { texts }) => {
        const lists = outputs.find(({ name }) => name === "entities").data;
        return texts.map((text, index) => element("p", { class: "marked" }, ...marked(text, JSON.parse(lists[index]))));
    },

    grpc: ({ name }, version, { texts }) => ({
        method: "tidemill.v1.Entities/Find",
        message: { ...named(name, version), texts },
    }),

    python: ({ name }, version, { texts }) =>
        triton({
            model: name,
            version,
            inputs: [["text", "BYTES", tritonTexts(texts)]],
            read: [`for found in answer.as_numpy("entities"):`, "    print(found.decode())"],
        }),

    rust: ({ name }, version, { texts }) =>
        rustMessage({
            message: "FindEntitiesRequest",
            model: name,
            version,
            fields: [`    texts: ${rustList(texts)},`],
            read: [
                "for text in client.find_entities(request).await?.texts {",
                "    for entity in text.entities {",
                `        println!("{} {:.3} {}", entity.label, entity.score, entity.text);`,
                "    }",
                "}",
            ],
        }),
};

// Positions count characters, which JavaScript's strings do not.
function marked(text, found) {
    const characters = Array.from(text);
    const nodes = [];
    let end = 0;
    for (const entity of [...found].sort((left, right) => left.start - right.start)) {
        if (entity.start < end) continue;
        nodes.push(characters.slice(end, entity.start).join(""));
        const name = characters.slice(entity.start, entity.end).join("");
        const label = element("small", {}, ` ${entity.label} ${(100 * entity.score).toFixed(0)} %`);
        nodes.push(element("mark", {}, name, label));
        end = entity.end;
    }
    nodes.push(characters.slice(end).join(""));
    return found.length > 0 ? nodes : [...nodes, element("small", { class: "quiet" }, " No entities.")];
}
