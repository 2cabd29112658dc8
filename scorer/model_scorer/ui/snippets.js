/** JSON laid out for reading, and a call written as curl and as Python. Pure: texts in, texts out. */

const STRING = /"(?:[^"\\]|\\.)*"/;
const TOKENS = new RegExp(`${STRING.source}|[\\[\\]{}:,]|[^\\s\\[\\]{}:,"]+`, "g");
const LINE = 78;

/**
 * Indent a JSON text; what fits on a line stays on it. Works on the text, not on parsed values, so that numbers beyond
 * 2^53 and the server's own way of writing them survive.
 */
export function layOut(text) {
	JSON.parse(text);
	const tokens = text.match(TOKENS);
	let position = 0;
	const take = (indent) => {
		const start = tokens[position++];
		if (start !== "[" && start !== "{") return start;
		const end = start === "[" ? "]" : "}";
		const inner = `${indent}  `;
		const items = [];
		while (tokens[position] !== end) {
			let item = take(inner);
			if (tokens[position] === ":") {
				position++;
				item += `: ${take(inner)}`;
			}
			items.push(item);
			if (tokens[position] === ",") position++;
		}
		position++;
		const line = start + items.join(", ") + end;
		if (indent.length + line.length <= LINE && !line.includes("\n")) return line;
		return items.length ? `${start}\n${items.map((item) => inner + item).join(",\n")}\n${indent}${end}` : line;
	};
	return take("");
}

const quoteForShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The key is the shell's variable KEY. */
export function asCurl({ url, needsKey, contentType, file, body }) {
	return [
		`curl ${quoteForShell(url)}`,
		...(needsKey ? ['-H "Authorization: Bearer $KEY"'] : []),
		`-H ${quoteForShell(`Content-Type: ${contentType}`)}`,
		file ? `--data-binary ${quoteForShell(`@${file}`)}` : `--data-raw ${quoteForShell(layOut(body))}`,
	].join(" \\\n  ");
}

/** JSON is Python but for three words, and for one escape that Python does not know. */
function asPythonLiteral(json) {
	const words = { true: "True", false: "False", null: "None" };
	const parts = new RegExp(`${STRING.source}|true|false|null`, "g");
	return json.replace(parts, (part) => words[part] ?? part.replace(/\\./g, (escape) => (escape === "\\/" ? "/" : escape)));
}

/** A program without dependencies; the key is the environment variable KEY. */
export function asPython({ url, needsKey, contentType, file, body }) {
	return [
		"import json",
		...(needsKey ? ["import os"] : []),
		"import urllib.request",
		...(file ? ["from pathlib import Path"] : []),
		"",
		file ? `data = Path(${JSON.stringify(file)}).read_bytes()` : `data = json.dumps(${asPythonLiteral(layOut(body))}).encode()`,
		`headers = {"Content-Type": ${JSON.stringify(contentType)}}`,
		...(needsKey ? ['headers["Authorization"] = "Bearer " + os.environ["KEY"]'] : []),
		`request = urllib.request.Request(${JSON.stringify(url)}, data, headers)`,
		"with urllib.request.urlopen(request) as answer:",
		"    print(json.load(answer))",
	].join("\n");
}
