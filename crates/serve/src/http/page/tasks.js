// What can be tried, by what a model is for. A new task is one file in tasks/ and one line here.

import { embedding } from "./tasks/embedding.js";
import { entities } from "./tasks/entities.js";
import { generation } from "./tasks/generation.js";
import { questionAnswering } from "./tasks/question_answering.js";
import { rerank } from "./tasks/rerank.js";
import { tensors } from "./tasks/tensors.js";
import { textClassification } from "./tasks/text_classification.js";
import { textToText } from "./tasks/text_to_text.js";

// Each has a `title`, and either `panel(model)`, which builds a place of its own, or: `fields`, what is asked for;
// `call`, the HTTP request; `show`, an answer as nodes; `grpc`, `python` and `rust`, the same call elsewhere.
export const TASKS = {
    "text-classification": textClassification,
    embedding,
    rerank,
    entities,
    "question-answering": questionAnswering,
    "text-to-text": textToText,
    generation,
    tensors,
    identity: { ...tensors, title: "Tensors given back" },
};
