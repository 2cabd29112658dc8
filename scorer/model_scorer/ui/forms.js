/**
 * A form for each kind of model: `{element, calls(), json?()}`. `calls()` gives the requests that the entries stand for,
 * `{path, contentType, body, file?, picture?, count?}`, or throws an `Error` that says what is wrong.
 */

/** Make an element: attributes for names with a hyphen, properties for others; children are nodes or texts. */
export function el(tag, properties = {}, ...children) {
	const element = document.createElement(tag);
	for (const [name, value] of Object.entries(properties)) {
		if (name.includes("-")) element.setAttribute(name, value);
		else element[name] = value;
	}
	element.append(...children);
	return element;
}

export function button(text, click, properties = {}) {
	const made = el("button", { type: "button", ...properties }, text);
	made.addEventListener("click", click);
	return made;
}

const json = (path, body, count = 1) => [{ path, contentType: "application/json", body, count }];
const changed = (element) => element.dispatchEvent(new Event("input", { bubbles: true }));

/** One question. */
function textForm({ path, text }) {
	const field = el("textarea", { id: "question", value: text.example, required: true });
	const element = el("div", {}, el("label", { htmlFor: "question" }, "Question or text"), field);
	return { element, calls: () => json(path, JSON.stringify({ [text.key]: field.value })) };
}

/** The body itself, sent exactly as it is written. */
export function jsonForm({ path }, text) {
	const field = el("textarea", { id: "json", value: text, required: true, spellcheck: false });
	const calls = () => {
		try {
			const rows = Object.values(JSON.parse(field.value) ?? {}).find(Array.isArray);
			return json(path, field.value, rows?.length);
		} catch (error) {
			throw new Error(`This is not JSON yet: ${error.message}`);
		}
	};
	return { element: el("div", {}, el("label", { htmlFor: "json" }, "JSON"), field), calls };
}

/** A table: a field for each column of each row. */
function rowsForm({ path, rows: { columns, named, example, infer } }) {
	const list = el("div", { id: "rows", className: "stack" });
	let made = 0;

	const cell = ({ name, type }, value, id) => {
		const isBoolean = type === "boolean";
		const field = isBoolean
			? el("select", { id }, el("option", {}, "true"), el("option", {}, "false"))
			: el("input", { id, type: type === "string" ? "text" : "number", step: type === "integer" ? "1" : "any" });
		field.value = isBoolean ? String(Boolean(value)) : (value ?? "");
		return el("div", {}, el("label", { htmlFor: id }, name), field);
	};
	const number = () => {
		[...list.children].forEach((row, index, all) => {
			const remove = row.querySelector("button");
			row.querySelector("legend").textContent = `Row ${index + 1}`;
			remove.hidden = all.length === 1;
			remove.setAttribute("aria-label", `Remove row ${index + 1}`);
		});
		changed(list);
	};
	const focus = (row) => row.querySelector("input, select").focus();
	const add = (values) => {
		const id = made++;
		const cells = columns.map((column, index) => cell(column, values[index], `cell-${id}-${index}`));
		const remove = button("Remove", () => {
			const next = row.nextElementSibling ?? row.previousElementSibling;
			row.remove();
			number();
			focus(next);
		});
		const row = el("fieldset", {}, el("legend"), el("div", {}, ...cells), remove);
		list.append(row);
		number();
		return row;
	};
	const read = (row) =>
		[...row.querySelectorAll("input, select")].map(({ type, value }) => {
			if (type === "select-one") return value === "true";
			if (type === "text") return value;
			return value === "" ? null : Number(value);
		});
	const readAll = () => [...list.children].map(read);
	const plain = (rows) => ({
		data: named ? rows.map((row) => Object.fromEntries(columns.map(({ name }, index) => [name, row[index]]))) : rows,
	});
	const tensors = (rows) =>
		infer.inputs.map((spec, index, { length }) => ({
			...spec,
			...(length === 1
				? { shape: [rows.length, columns.length], data: rows.flat() }
				: { shape: [rows.length], data: rows.map((row) => row[index]) }),
		}));

	example.forEach(add);
	const more = button("Add a row", () => focus(add(read(list.lastElementChild))), { id: "add-row" });
	return {
		element: el("div", { className: "stack" }, list, el("div", {}, more)),
		/** Plain rows: the form that is easiest to go on with by hand. */
		json: () => JSON.stringify(plain(readAll())),
		calls() {
			const rows = readAll();
			const body = infer ? { inputs: tensors(rows), outputs: infer.outputs.map((name) => ({ name })) } : plain(rows);
			return json(infer?.path ?? path, JSON.stringify(body), rows.length);
		},
	};
}

export const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

/** Image files: chosen, dropped or pasted; a request each. */
function imageForm({ path, maxBodyBytes }) {
	let pictures = [];
	const field = el("input", { id: "file", type: "file", accept: "image/*", multiple: true, "aria-describedby": "file-note" });
	const note = el("span", { id: "file-note", className: "quiet" }, "or drop or paste it here; several are sent one by one");
	const drop = el("label", { className: "drop" }, "Choose an image", field, note);
	const list = el("ul", { className: "stack", "aria-label": "Images to score" });

	const show = () => {
		const items = pictures.map((picture) => {
			const { file, url } = picture;
			const remove = () => {
				URL.revokeObjectURL(url);
				pictures = pictures.filter((other) => other !== picture);
				show();
				field.focus();
			};
			const name = el("span", {}, `${file.name} `, el("small", { className: "quiet" }, size(file.size)));
			const gone = button("Remove", remove, { "aria-label": `Remove ${file.name}` });
			return el("li", { className: "picture" }, el("img", { src: url, alt: "" }), name, gone);
		});
		list.replaceChildren(...items);
		changed(list);
	};
	const add = (files) => {
		const images = [...files].filter((file) => file.type.startsWith("image/"));
		note.textContent = images.length < files.length ? "what is no image was left out" : "or drop or paste more";
		pictures.push(...images.map((file) => ({ file, url: URL.createObjectURL(file) })));
		show();
	};
	field.addEventListener("change", () => {
		add(field.files);
		field.value = "";
	});
	// On the whole page: an image dropped beside the field must not replace the page.
	addEventListener("dragover", (event) => {
		event.preventDefault();
		drop.classList.add("over");
	});
	addEventListener("dragleave", (event) => event.relatedTarget ?? drop.classList.remove("over"));
	addEventListener("drop", (event) => {
		event.preventDefault();
		drop.classList.remove("over");
		add(event.dataTransfer.files);
	});
	addEventListener("paste", ({ clipboardData: { files } }) => files.length && add(files));
	const calls = () => {
		if (!pictures.length) throw new Error("Choose an image first.");
		const large = pictures.find(({ file }) => file.size > maxBodyBytes)?.file;
		if (large) throw new Error(`${large.name} has ${size(large.size)}; this model takes ${size(maxBodyBytes)} at most.`);
		return pictures.map(({ file, url }) => ({ path, contentType: file.type, body: file, file: file.name, picture: url }));
	};
	return { element: el("div", { className: "stack" }, drop, list), calls };
}

/** The form for a model, by `/ui/model.json`. */
export function makeForm(model) {
	const make = { text: textForm, rows: rowsForm, image: imageForm }[model.kind];
	return make ? make(model) : jsonForm(model, JSON.stringify(model.body, null, 2));
}
