// Prometheus's text format, and what can be said from two readings of it: rates of counters, quantiles of histograms.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;

/** A reading: for each name its series, each with its labels and its value. */
export function parse(text) {
    const series = new Map();
    for (const line of text.split("\n")) {
        const found = line.startsWith("#") ? null : LINE.exec(line);
        if (!found) continue;
        const [, name, labels = "", value] = found;
        if (!series.has(name)) series.set(name, []);
        series.get(name).push({ labels: labelsOf(labels), value: Number(value) });
    }
    return series;
}

function labelsOf(text) {
    const labels = {};
    for (const [, name, value] of text.matchAll(LABEL)) {
        labels[name] = value.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));
    }
    return labels;
}

/** The sum of the series of a name that have these labels. */
export function sum(reading, name, wanted = {}) {
    const matches = ({ labels }) => Object.entries(wanted).every(([label, value]) => labels[label] === value);
    return (reading.get(name) ?? []).filter(matches).reduce((total, { value }) => total + value, 0);
}

/**
 * A histogram of what came between two readings, over all series that have these labels: the bounds of its buckets
 * with the counts up to each.
 */
export function histogram(before, after, name, wanted = {}) {
    const bounds = new Set((after.get(`${name}_bucket`) ?? []).map(({ labels }) => labels.le));
    const between = (le) => {
        const own = { ...wanted, le };
        return sum(after, `${name}_bucket`, own) - sum(before, `${name}_bucket`, own);
    };
    const buckets = [...bounds].map((le) => ({ bound: le === "+Inf" ? Infinity : Number(le), count: between(le) }));
    return buckets.sort((left, right) => left.bound - right.bound);
}

/** How much a histogram holds. */
export function total(buckets) {
    return buckets.at(-1)?.count ?? 0;
}

/**
 * The value below which a part of a histogram lies, as Prometheus estimates it: evenly spread within a bucket. Not a
 * number where there is nothing; the last bound where it lies beyond.
 */
export function quantile(buckets, part) {
    const rank = part * total(buckets);
    if (!(rank > 0)) return NaN;
    const index = buckets.findIndex(({ count }) => count >= rank);
    const { bound, count } = buckets[index];
    const lower = buckets[index - 1] ?? { bound: 0, count: 0 };
    if (bound === Infinity) return lower.bound;
    return lower.bound + ((bound - lower.bound) * (rank - lower.count)) / (count - lower.count);
}
