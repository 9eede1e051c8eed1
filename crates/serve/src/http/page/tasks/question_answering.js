// Question answering: the span of a text that answers a question, marked where it stands.

import { element } from "../dom.js";
import { inferByGrpc, inferPath, rust, rustInfer, textTensor, triton, tritonTexts } from "../samples.js";

function tensors({ question, text }) {
    return [textTensor("question", [question]), textTensor("text", [text])];
}

export const questionAnswering = {
    title: "Question answering",
    action: "Answer",
    hasVersions: true,

    fields: () => [
        { name: "question", label: "Question", kind: "text", value: "Where was Ada Lovelace born?", required: true },
        {
            name: "text",
            label: "Text",
            kind: "paragraph",
            rows: 4,
            value: "Ada Lovelace was born in London in 1815.",
            required: true,
        },
    ],

    call: ({ name }, version, values) => ({ path: inferPath(name, version), body: { inputs: tensors(values) } }),

    show: ({ outputs }, { text }) => {
        const of = (wanted) => outputs.find(({ name }) => name === wanted).data[0];
        const [answer, score] = [of("answer"), of("score")];
        const place = answer ? text.indexOf(answer) : -1;
        const context =
            place < 0
                ? []
                : [
                      element(
                          "p",
                          { class: "marked" },
                          text.slice(0, place),
                          element("mark", {}, answer),
                          text.slice(place + answer.length),
                      ),
                  ];
        return [
            element(
                "p",
                { class: "answer" },
                answer || "The text has no answer.",
                element("small", {}, ` ${(100 * score).toFixed(1)} %`),
            ),
            ...context,
        ];
    },

    grpc: ({ name }, version, values) => inferByGrpc(name, version, tensors(values)),

    python: ({ name }, version, { question, text }) =>
        triton({
            model: name,
            version,
            inputs: [
                ["question", "BYTES", tritonTexts([question])],
                ["text", "BYTES", tritonTexts([text])],
            ],
            read: [`print(answer.as_numpy("answer")[0].decode(), answer.as_numpy("score")[0])`],
        }),

    rust: ({ name }, version, { question, text }) =>
        rustInfer({
            model: name,
            version,
            tensors: [`.texts("question", [${rust(question)}])?`, `.texts("text", [${rust(text)}])?`],
            read: [
                `println!("{:?}", Output::of(&answer, "answer")?.texts()?);`,
                `println!("{:?}", Output::of(&answer, "score")?.fp32()?);`,
            ],
        }),
};
