// The same call as a command and as programs: curl, grpcurl, Python and Rust. Written from the call that the form makes,
// with the names and the quoting of each language. A key is never written out: it is read from the environment.

import { address, hasKey } from "./server.js";

const KEY = "TIDEMILL_API_KEY";

/** A text as a shell's word. */
function shell(text) {
    return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A value of JSON as Python writes it. */
export function python(value) {
    if (value === null) return "None";
    if (value === true) return "True";
    if (value === false) return "False";
    if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
    if (typeof value === "object") {
        return `{${Object.entries(value)
            .map(([name, own]) => `${python(name)}: ${python(own)}`)
            .join(", ")}}`;
    }
    return JSON.stringify(value);
}

/** A text as Rust writes it. */
export function rust(text) {
    const escaped = text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n").replaceAll("\t", "\\t");
    const control = (character) => `\\u{${character.codePointAt(0).toString(16)}}`;
    return `"${escaped.replace(/\p{Cc}|[\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, control)}"`;
}

/** A list of texts as Rust writes those that own them. */
export function rustList(texts) {
    return `vec![${texts.map((text) => `${rust(text)}.into()`).join(", ")}]`;
}

/** A text as JSON writes bytes in the messages of gRPC. */
export function base64(text) {
    const bytes = new TextEncoder().encode(text);
    return btoa(Array.from(bytes, (byte) => String.fromCodePoint(byte)).join(""));
}

function isTls() {
    return location.protocol === "https:";
}

/** HOST:PORT. */
function host() {
    const port = location.port || (isTls() ? "443" : "80");
    return `${location.hostname}:${port}`;
}

/** The command of an HTTP call. */
export function curl({ path, body, streams }) {
    const lines = [`curl -sS${streams ? "N" : ""} ${shell(address(path).href)}`, `-H 'Content-Type: application/json'`];
    if (hasKey()) lines.push(`-H "Authorization: Bearer $${KEY}"`);
    lines.push(`-d ${shell(JSON.stringify(body))}`);
    return lines.join(" \\\n    ");
}

/** The command of a gRPC call. */
export function grpcurl({ method, message }) {
    const lines = [isTls() ? "grpcurl" : "grpcurl -plaintext"];
    if (hasKey()) lines[0] += ` -H "authorization: Bearer $${KEY}"`;
    lines.push(`-d ${shell(JSON.stringify(message))}`, `${host()} ${method}`);
    return lines.join(" \\\n    ");
}

/** A program for `tritonclient[grpc]`. `inputs` are `[name, datatype, array]` in Python; `read` prints an answer. */
export function triton({ model, version, parameters, inputs, read }) {
    const headers = `headers = {"authorization": f"Bearer {os.environ['${KEY}']}"}`;
    const made = inputs.map(([name, datatype, array]) => `(${python(name)}, ${python(datatype)}, ${array}),`);
    const options = [
        version && `model_version=${python(version)}`,
        parameters && `parameters=${python(parameters)}`,
        hasKey() && "headers=headers",
    ];
    return [
        ...(hasKey() ? ["import os", ""] : []),
        "import numpy as np",
        "import tritonclient.grpc as triton",
        "",
        `client = triton.InferenceServerClient(${python(host())}${isTls() ? ", ssl=True" : ""})`,
        ...(hasKey() ? [headers] : []),
        "inputs = []",
        "for name, datatype, array in [",
        ...made.map((line) => `    ${line}`),
        "]:",
        "    tensor = triton.InferInput(name, list(array.shape), datatype)",
        "    tensor.set_data_from_numpy(array)",
        "    inputs.append(tensor)",
        "",
        `answer = client.infer(${[python(model), "inputs", ...options.filter(Boolean)].join(", ")})`,
        ...read,
    ].join("\n");
}

/** Texts as an array of bytes for `tritonclient`. */
export function tritonTexts(texts) {
    return `np.array([text.encode() for text in ${python(texts)}], dtype=np.object_)`;
}

/** A program for the `openai` package. */
export function openai(lines) {
    const key = hasKey() ? `os.environ["${KEY}"]` : `"none"`;
    return [
        ...(hasKey() ? ["import os", ""] : []),
        "from openai import OpenAI",
        "",
        `client = OpenAI(base_url=${python(address("/v1").href)}, api_key=${key})`,
        ...lines,
    ].join("\n");
}

/** A program for the crate `tidemill-client`: what it uses, and its lines once there is a `client`. */
export function rustProgram(uses, lines) {
    const fields = [...(hasKey() ? ["api_key"] : []), ...(isTls() ? ["tls"] : [])];
    const all = fields.length
        ? `ClientOptions { ${fields.join(", ")}, ..ClientOptions::default() }`
        : "ClientOptions::default()";
    const options = [
        ...(hasKey() ? [`    let api_key = std::env::var("${KEY}").ok();`] : []),
        // Whose certificates are trusted, only whoever runs the program can say.
        ...(isTls() ? ['    let tls = Some(Tls::trusting(&std::fs::read("ca.pem")?)?);'] : []),
        `    let options = ${all};`,
    ];
    return [
        ...(isTls() ? ["use tidemill_client::Tls;"] : []),
        ...uses.map((use) => `use ${use};`),
        "",
        "#[tokio::main]",
        "async fn main() -> Result<(), Box<dyn std::error::Error>> {",
        ...options,
        `    let client = Client::connect(${rust(host())}, options).await?;`,
        ...lines.map((line) => (line ? `    ${line}` : "")),
        "    Ok(())",
        "}",
    ].join("\n");
}

/**
 * A program for `tidemill-client` that sends one message of `tidemill.v1`: `fields` are the lines of what it has beside the
 * model, `read` those that send it and print the answer.
 */
export function rustMessage({ message, model, version, fields, read }) {
    return rustProgram(
        [`tidemill_client::v1::${message}`, "tidemill_client::{Client, ClientOptions}"],
        [
            `let request = ${message} {`,
            ...rustNamed(model, version),
            ...fields,
            `    ..${message}::default()`,
            "};",
            ...read,
        ],
    );
}

/** The fields that name a model in a message of `tidemill.v1`. */
export function named(model, version) {
    return version ? { model, model_version: version } : { model };
}

/** The same as lines of a Rust struct. */
export function rustNamed(model, version) {
    const lines = [`    model: ${rust(model)}.into(),`];
    if (version) lines.push(`    model_version: ${rust(version)}.into(),`);
    return lines;
}

/**
 * A program for `tidemill-client` that calls a model by the Open Inference Protocol. `tensors` are lines that add one
 * each, `uses` what they need, `read` prints an answer.
 */
export function rustInfer({ model, version, uses = [], tensors, read }) {
    const of = [`Infer::of(${rust(model)})`, ...tensors.map((tensor) => `    ${tensor}`)];
    const request = version
        ? [
              "let mut request = ModelInferRequest::from(",
              ...of.map((line) => `    ${line}`),
              ");",
              `request.model_version = ${rust(version)}.into();`,
          ]
        : [`let request = ${of[0]}`, ...of.slice(1, -1), `${of.at(-1)};`];
    return rustProgram(
        [
            ...(version ? ["tidemill_client::inference::ModelInferRequest"] : []),
            ...uses,
            "tidemill_client::{Client, ClientOptions, Infer, Output}",
        ],
        [...request, "let answer = client.infer(request).await?;", ...read],
    );
}

/** The path of inference by the Open Inference Protocol. */
export function inferPath(model, version) {
    const of = `/v2/models/${encodeURIComponent(model)}`;
    return version ? `${of}/versions/${encodeURIComponent(version)}/infer` : `${of}/infer`;
}

/** A tensor of texts in the protocol's JSON. */
export function textTensor(name, texts) {
    return { name, shape: [texts.length], datatype: "BYTES", data: texts };
}

/** The same call over gRPC, where JSON writes bytes in base64. */
export function inferByGrpc(model, version, tensors, parameters) {
    const inputs = tensors.map(({ name, shape, datatype, data }) => {
        return { name, shape, datatype, contents: { bytes_contents: data.map(base64) } };
    });
    const message = {
        model_name: model,
        ...(version && { model_version: version }),
        inputs,
        ...(parameters && { parameters }),
    };
    return { method: "inference.GRPCInferenceService/ModelInfer", message };
}
