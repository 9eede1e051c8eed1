// Tensors in, tensors out, as the Open Inference Protocol writes them in JSON. What a model takes is in its metadata.

import { element } from "../dom.js";
import { base64, inferPath, python, rust, rustInfer, triton } from "../samples.js";
import { getJson } from "../server.js";

/** Of each datatype: the typed contents that gRPC has, numpy's type and Rust's. */
const TYPES = {
    BOOL: ["bool_contents", "np.bool_", "bool"],
    UINT8: ["uint_contents", "np.uint8", "u8"],
    UINT16: ["uint_contents", "np.uint16", "u16"],
    UINT32: ["uint_contents", "np.uint32", "u32"],
    UINT64: ["uint64_contents", "np.uint64", "u64"],
    INT8: ["int_contents", "np.int8", "i8"],
    INT16: ["int_contents", "np.int16", "i16"],
    INT32: ["int_contents", "np.int32", "i32"],
    INT64: ["int64_contents", "np.int64", "i64"],
    FP32: ["fp32_contents", "np.float32", "f32"],
    FP64: ["fp64_contents", "np.float64", "f64"],
};

/** Elements that a dimension without a size gets in the example. */
const EXAMPLE_SIZE = 3;

export const tensors = {
    title: "Tensors",
    action: "Infer",
    hasVersions: true,

    fields: () => [
        {
            name: "inputs",
            label: "Inputs, as JSON",
            kind: "json",
            rows: 10,
            hint: "Elements in rows, nested or flat. FP16 and BF16 have no form in JSON.",
        },
    ],

    prepare: async ({ name }) => {
        const { inputs } = await getJson(`/v2/models/${encodeURIComponent(name)}`);
        return { inputs: shown(inputs.map(example)) };
    },

    call: ({ name }, version, values) => ({ path: inferPath(name, version), body: { inputs: read(values) } }),

    show: ({ outputs }) =>
        outputs.flatMap(({ name, datatype, shape, data }) => [
            element("h4", {}, name, element("small", {}, ` ${datatype} [${shape.join(", ")}]`)),
            element("pre", { tabindex: "0" }, JSON.stringify(data)),
        ]),

    grpc: ({ name }, version, values) => {
        const inputs = read(values).map(({ name, shape, datatype, data }) => {
            const elements = [data].flat(Infinity);
            const contents =
                datatype === "BYTES" ? { bytes_contents: elements.map(base64) } : { [typeOf(datatype)[0]]: elements };
            return { name, shape, datatype, contents };
        });
        const message = { model_name: name, ...(version && { model_version: version }), inputs };
        return { method: "inference.GRPCInferenceService/ModelInfer", message };
    },

    python: ({ name }, version, values) => {
        const array = ({ name, shape, datatype, data }) => {
            const elements = python([data].flat(Infinity));
            const flat =
                datatype === "BYTES"
                    ? `np.array([text.encode() for text in ${elements}], dtype=np.object_)`
                    : `np.array(${elements}, dtype=${typeOf(datatype)[1]})`;
            return [name, datatype, `${flat}.reshape(${python(shape)})`];
        };
        return triton({
            model: name,
            version,
            inputs: read(values).map(array),
            read: [
                `for output in answer.get_response().outputs:`,
                "    print(output.name, answer.as_numpy(output.name))",
            ],
        });
    },

    rust: ({ name }, version, values) => {
        const inputs = read(values);
        const isRaw = inputs.some(({ datatype }) => !["FP32", "BYTES"].includes(datatype));
        return rustInfer({
            model: name,
            version,
            uses: isRaw ? ["tidemill_client::tensor::Datatype"] : [],
            tensors: inputs.map(rustTensor),
            read: [
                "for output in &answer.outputs {",
                `    println!("{} {:?}", output.name, Output::of(&answer, &output.name)?);`,
                "}",
            ],
        });
    },
};

// A request that the model takes: zeros, and texts.
function example({ name, datatype, shape }) {
    const sizes = shape.map((size) => (size < 0 ? EXAMPLE_SIZE : size));
    const count = sizes.reduce((product, size) => product * size, 1);
    const value = (index) => (datatype === "BYTES" ? "text" : datatype === "BOOL" ? true : index + 1);
    return {
        name,
        datatype: datatype || "FP32",
        shape: sizes,
        data: Array.from({ length: Math.min(count, 4096) }, (_, index) => value(index)),
    };
}

// One tensor a paragraph, its elements on one line.
function shown(inputs) {
    const line = ([name, value]) => `    ${JSON.stringify(name)}: ${JSON.stringify(value)}`;
    const tensor = (input) => `  {\n${Object.entries(input).map(line).join(",\n")}\n  }`;
    return `[\n${inputs.map(tensor).join(",\n")}\n]`;
}

function read({ inputs }) {
    let tensors;
    try {
        tensors = JSON.parse(inputs);
    } catch (error) {
        throw new Error(`The inputs are not JSON: ${error.message}`);
    }
    if (!Array.isArray(tensors)) throw new Error("The inputs must be a list of tensors.");
    return tensors;
}

function typeOf(datatype) {
    const type = TYPES[datatype];
    if (!type) throw new Error(`${datatype} has no form in JSON.`);
    return type;
}

function rustTensor({ name, shape, datatype, data }) {
    const elements = [data].flat(Infinity);
    const dimensions = `&[${shape.join(", ")}]`;
    if (datatype === "BYTES" && shape.length === 1) return `.texts(${rust(name)}, [${elements.map(rust).join(", ")}])?`;
    const type = typeOf(datatype)[2];
    const numbers = elements.map((value) =>
        type.startsWith("f") && Number.isInteger(value) ? value.toFixed(1) : String(value),
    );
    if (datatype === "FP32") return `.fp32(${rust(name)}, ${dimensions}, &[${numbers.join(", ")}])?`;
    const bytes = type === "bool" ? "u8::from" : `${type}::to_le_bytes`;
    const mapped = `${type === "bool" ? "map" : "flat_map"}(${bytes})`;
    const collected = `[${numbers.join(", ")}].into_iter().${mapped}.collect::<Vec<u8>>()`;
    const variant = datatype.charAt(0) + datatype.slice(1).toLowerCase();
    return `.raw(${rust(name)}, Datatype::${variant}, ${dimensions}, ${collected})`;
}
