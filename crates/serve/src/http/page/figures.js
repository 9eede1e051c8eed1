// The live figures: reads /metrics every two seconds and shows what came in between: requests, latency, queue, batch
// sizes. Knows nothing of models but the name of the one that is looked at.

import { amount, drawing, element, milliseconds } from "./dom.js";
import { histogram, parse, quantile, sum, total } from "./prometheus.js";
import { getText } from "./server.js";

const INTERVAL = 2000;
const LONGEST_INTERVAL = 30_000;
/** Readings kept: those of a minute. */
const KEPT = 31;

const LATENCY = "tidemill_request_seconds";

/** What is shown of the server: a name, one or more values now, and a line of each over the last minute. */
const OF_SERVER = [
    {
        name: "Requests",
        unit: "a second",
        lines: [(before, after, seconds) => change(before, after, "tidemill_requests_total") / seconds],
        values: ([now]) => [amount(now)],
        note: (readings) =>
            `${amount(sum(readings.at(-1).series, "tidemill_requests_total"))} since the server started`,
    },
    {
        name: "Latency",
        lines: [0.5, 0.95, 0.99].map(
            (part) => (before, after) => 1000 * quantile(histogram(before, after, LATENCY), part),
        ),
        values: (_, readings) =>
            [0.5, 0.95, 0.99].map((part) => {
                const minute = histogram(readings[0].series, readings.at(-1).series, LATENCY);
                return { name: `p${100 * part}`, value: milliseconds(1000 * quantile(minute, part)) };
            }),
        note: () => "of all requests in the last minute",
    },
    {
        name: "Open requests",
        lines: [(_, after) => sum(after, "tidemill_open_requests")],
        values: ([now]) => [amount(now)],
        note: (readings) =>
            `${amount(sum(readings.at(-1).series, "tidemill_rejections_total"))} refused or broken off so far`,
    },
];

/** The same of one model. */
const OF_MODEL = [
    {
        name: "Queue",
        unit: "waiting",
        lines: [(_, after, __, labels) => sum(after, "tidemill_requests_waiting", labels)],
        values: ([now]) => [amount(now)],
        note: (readings, labels) => `waited p95 ${inMinute(readings, "tidemill_queue_seconds", labels)}`,
    },
    {
        name: "Batch size",
        unit: "on average",
        lines: [
            (before, after, _, labels) => {
                const batches = change(before, after, "tidemill_batch_size_count", labels);
                return batches > 0 ? change(before, after, "tidemill_batch_size_sum", labels) / batches : NaN;
            },
        ],
        values: (_, readings, labels) => {
            const [first, last] = [readings[0].series, readings.at(-1).series];
            const batches = change(first, last, "tidemill_batch_size_count", labels);
            return [amount(change(first, last, "tidemill_batch_size_sum", labels) / batches)];
        },
        note: (readings, labels) => {
            const batches = sum(readings.at(-1).series, "tidemill_batch_size_count", labels);
            const computed = inMinute(readings, "tidemill_compute_seconds", labels);
            return `${amount(batches)} batches so far, compute p95 ${computed}`;
        },
    },
    {
        name: "Tokens",
        unit: "a second",
        is: (reading, labels) => sum(reading, "tidemill_generated_tokens_total", labels) > 0,
        lines: [
            (before, after, seconds, labels) =>
                change(before, after, "tidemill_generated_tokens_total", labels) / seconds,
        ],
        values: ([now]) => [amount(now)],
        note: (readings, labels) =>
            `first token p95 ${inMinute(readings, "tidemill_time_to_first_token_seconds", labels)}`,
    },
];

function change(before, after, name, labels) {
    return sum(after, name, labels) - sum(before, name, labels);
}

function inMinute(readings, name, labels) {
    return milliseconds(1000 * quantile(histogram(readings[0].series, readings.at(-1).series, name, labels), 0.95));
}

/** The figures in a place of the page. */
export class Figures {
    #readings = [];
    #model;
    #timer;
    #interval = INTERVAL;
    #paused = false;
    #place;
    #problem;

    constructor(place, problem, pause) {
        this.#place = place;
        this.#problem = problem;
        pause.addEventListener("click", () => {
            this.#paused = !this.#paused;
            pause.textContent = this.#paused ? "Go on" : "Pause";
            if (!this.#paused) this.read();
        });
        document.addEventListener("visibilitychange", () => {
            if (!document.hidden) this.read();
        });
    }

    /** The model whose figures stand beside the server's. */
    setModel(name) {
        this.#model = name;
        this.#show();
    }

    /** Begins, or begins again with another key. `problem` says why there is nothing to read, if so. */
    begin(problem) {
        clearTimeout(this.#timer);
        this.#readings = [];
        this.#interval = INTERVAL;
        this.#tell(problem ?? "");
        this.#show();
        if (!problem) this.read();
    }

    /** Stops. */
    end(problem) {
        clearTimeout(this.#timer);
        this.#timer = undefined;
        this.#readings = [];
        this.#tell(problem);
        this.#show();
    }

    /** Reads now, and goes on. */
    async read() {
        clearTimeout(this.#timer);
        if (this.#paused || document.hidden) return;
        try {
            const reading = { at: performance.now(), series: parse(await getText("/metrics")) };
            const last = this.#readings.at(-1);
            // A server that was started again counts from 0.
            const restarted = last && change(last.series, reading.series, "tidemill_requests_total") < 0;
            this.#readings = [...(restarted ? [] : this.#readings), reading].slice(-KEPT);
            this.#interval = INTERVAL;
            this.#tell("");
        } catch (refused) {
            this.#tell(refused.message);
            if (refused.status === 401 || refused.status === 403) return;
            const wait = refused.retryAfter ? 1000 * refused.retryAfter : 2 * this.#interval;
            this.#interval = Math.min(Math.max(wait, INTERVAL), LONGEST_INTERVAL);
        }
        this.#show();
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.read(), this.#interval);
    }

    #tell(problem) {
        this.#problem.textContent = problem;
        this.#problem.hidden = !problem;
    }

    #show() {
        if (this.#readings.length === 0) {
            this.#place.replaceChildren();
            return;
        }
        const tiles = OF_SERVER.map((figure) => tile(figure, this.#readings, {}));
        const nodes = [group("The server", tiles)];
        if (this.#model) {
            const labels = { model: this.#model };
            const measured =
                total(histogram(new Map(), this.#readings.at(-1).series, "tidemill_batch_size", labels)) > 0;
            const own = OF_MODEL.filter(({ is }) => is?.(this.#readings.at(-1).series, labels) ?? measured);
            const tiles = own.map((figure) => tile(figure, this.#readings, labels));
            const nothing = element("p", { class: "quiet" }, "Nothing has been batched for this model yet.");
            nodes.push(group(this.#model, tiles.length > 0 ? tiles : [nothing]));
        }
        this.#place.replaceChildren(...nodes);
    }
}

function group(name, tiles) {
    return element("section", { class: "figures-group" }, element("h3", {}, name), ...tiles);
}

function tile(figure, readings, labels) {
    const lines = figure.lines.map((line) => over(readings, line, labels));
    const now = lines.map((line) => line.at(-1));
    const values = figure.values(now, readings, labels).map(shownValue);
    return element(
        "div",
        { class: "tile" },
        element("h4", {}, figure.name),
        element("p", { class: "values" }, ...values, figure.unit ? element("small", {}, figure.unit) : null),
        sparkline(lines),
        element("p", { class: "quiet" }, figure.note(readings, labels)),
    );
}

function shownValue(value) {
    if (typeof value === "string") return element("strong", {}, value, " ");
    return element(
        "span",
        { class: "named-value" },
        element("small", {}, value.name, " "),
        element("strong", {}, value.value, " "),
    );
}

// A line's value between every two readings.
function over(readings, line, labels) {
    const value = (reading, index) => {
        const before = readings[index];
        return line(before.series, reading.series, (reading.at - before.at) / 1000, labels);
    };
    return readings.slice(1).map(value);
}

const [WIDTH, HEIGHT] = [120, 28];

// What the numbers beside it say is said there: nobody needs to see this. Gaps are where there was nothing.
function sparkline(lines) {
    const known = lines.flat().filter(Number.isFinite);
    const top = Math.max(...known, 0) || 1;
    const x = (index) => (WIDTH * index) / (KEPT - 2);
    const y = (value) => HEIGHT - 2 - (HEIGHT - 4) * (value / top);
    const paths = lines.map((line, order) => {
        const offset = KEPT - 1 - line.length;
        let pen = "M";
        const steps = line.map((value, index) => {
            if (!Number.isFinite(value)) {
                pen = "M";
                return "";
            }
            // A point alone is a short stroke.
            const step = `${pen}${x(index + offset).toFixed(1)} ${y(value).toFixed(1)}h.01`;
            pen = "L";
            return step;
        });
        return drawing("path", {
            class: `line line-${order}`,
            d: steps.join("") || "M0 0",
            "vector-effect": "non-scaling-stroke",
        });
    });
    const attributes = {
        class: "sparkline",
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
    };
    return drawing("svg", attributes, ...paths);
}
