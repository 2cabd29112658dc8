/**
 * What an answer means. Pure. A group is `{title?, kind: "bars" | "matches", share, rows}` with the best row first and
 * `share` when scores are between 0 and 1, `{kind: "values", values}`, or `{title?, kind: "error", message}`.
 */

const isNumber = (value) => typeof value === "number";
const isShare = (value) => isNumber(value) && value >= 0 && value <= 1;
const isFilled = (value) => Array.isArray(value) && value.length > 0;
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isPair = (value) => Array.isArray(value) && value.length === 2 && typeof value[0] === "string" && isNumber(value[1]);
const isId = (value) => typeof value === "string" || Number.isInteger(value);
const isMatch = (value) => Array.isArray(value) && value.length === 3 && isId(value[0]) && isId(value[1]) && isShare(value[2]);

/** Probabilities of one row: at least two, each a share, together one. */
function isDistribution(value) {
	if (!isFilled(value) || value.length < 2 || !value.every(isShare)) return false;
	return Math.abs(value.reduce((sum, share) => sum + share, 0) - 1) < 1e-3;
}

/** Take the answer out of what the dialects wrap around it. */
function unwrap(value) {
	if (!isObject(value)) return value;
	if (isFilled(value.result) && value.result.length === 2 && /^Computed in /.test(value.result[1])) return value.result[0];
	return value.predictions ?? value;
}

function bars(pairs, title) {
	const rows = pairs.map(([label, score]) => ({ cells: [label], score })).sort((a, b) => b.score - a.score);
	return { title, kind: "bars", share: rows.every((row) => isShare(row.score)), rows };
}

/** The scores of one item, or null when they are none. */
function readScores(value, labels, title) {
	if (isFilled(value) && value.every(isPair)) return bars(value, title);
	if (isDistribution(value)) {
		const name = (index) => (labels.length === value.length ? labels[index] : `class ${index}`);
		return bars(value.map((share, index) => [name(index), share]), title);
	}
	if (!isObject(value)) return null;
	if (typeof value.error === "string") return { title, kind: "error", message: value.error };
	const pairs = Object.entries(value);
	return pairs.length > 1 && pairs.every(([, score]) => isShare(score)) ? bars(pairs, title) : null;
}

function allOrNone(groups) {
	return groups.length > 0 && groups.every(Boolean) ? groups : null;
}

function readMatches(value) {
	if (!isFilled(value) || !value.every(isMatch) || value.every(isDistribution)) return null;
	const rows = value.map(([question, answer, score]) => ({ cells: [String(question), String(answer)], score }));
	return [{ kind: "matches", share: true, rows: rows.sort((a, b) => b.score - a.score) }];
}

/** V2: a label for each row beside the probabilities of all. */
function readTensors(value, labels) {
	if (!isObject(value) || !isFilled(value.outputs)) return null;
	const shares = value.outputs.find((tensor) => tensor.shape?.length === 2 && isFilled(tensor.data));
	const named = value.outputs.find((tensor) => tensor.shape?.length === 1 && isFilled(tensor.data));
	if (!shares) return named ? [{ kind: "values", values: named.data.map(String) }] : null;
	const width = shares.shape[1];
	const flat = shares.data.flat();
	return allOrNone(
		Array.from({ length: shares.shape[0] }, (_, row) => {
			const label = named ? String(named.data[row]) : "";
			return readScores(flat.slice(row * width, (row + 1) * width), labels, `Row ${row + 1}${label ? `: ${label}` : ""}`);
		}),
	);
}

/**
 * The groups of a decoded answer; none when it is best read as JSON.
 *
 * @param labels the model's class names, or an empty list.
 * @param count rows in the request: numbers in a list are one row's probabilities only when there was one row.
 */
export function readAnswer(value, labels = [], count = 1) {
	const answer = unwrap(value);
	const found = readTensors(answer, labels) ?? readMatches(answer);
	if (found) return found;
	if (count === 1 || !isFilled(answer) || !answer.every(isNumber)) {
		const scores = readScores(answer, labels);
		if (scores) return [scores];
	}
	if (isFilled(answer)) {
		if (answer.every((item) => item === null || typeof item !== "object")) {
			return [{ kind: "values", values: answer.map(String) }];
		}
		const several = answer.length > 1;
		return allOrNone(answer.map((item, index) => readScores(item, labels, several ? `Row ${index + 1}` : undefined))) ?? [];
	}
	if (isObject(answer)) {
		return allOrNone(Object.entries(answer).map(([key, item]) => readScores(item, labels, key))) ?? [];
	}
	return ["string", "number", "boolean"].includes(typeof answer) ? [{ kind: "values", values: [String(answer)] }] : [];
}
