/** The page: reads what the model takes, sends requests, shows answers. Makes nodes and texts only, never markup. */

import { readAnswer } from "./answers.js";
import { button, el, jsonForm, makeForm, size } from "./forms.js";
import { asCurl, asPython, layOut } from "./snippets.js";

const SHOWN_ROWS = 15;
const SHOWN_CHARACTERS = 100_000;
const KEY = "scoring-api-key";
// The page is at …/ui: what it calls lies beside it, whatever a proxy puts before.
const ROOT = new URL(".", location.href);

const byId = (id) => document.getElementById(id);
const duration = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
let model;
let ownForm;
let form;
let running;

class Refused extends Error {
	constructor({ status, statusText, headers }, text) {
		let told = text;
		try {
			const value = JSON.parse(text);
			told = value.message ?? value.error ?? text;
		} catch {
			// Not JSON: shown as it came.
		}
		super(told);
		this.status = status;
		this.title = `${status} ${statusText}`;
		this.requestId = headers.get("x-request-id");
		const again = headers.get("retry-after");
		const advice = {
			401: "Enter the API key above. The owner of the model has it in a Kubernetes Secret.",
			413: `Send less: a smaller image, a shorter text or fewer rows${model ? `, ${size(model.maxBodyBytes)} at most` : ""}.`,
			503: `The model is busy or not ready. Send again ${again ? `in ${again} s` : "in a moment"}.`,
			504: "The model did not answer before the deadline. Send less at once, or when it is less busy.",
		};
		const common = status < 500 ? "Correct the request and send it again." : "The model failed on this request; its log says why.";
		this.advice = advice[status] ?? common;
	}
}

async function ask(path, options = {}) {
	const key = sessionStorage.getItem(KEY);
	const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
	const began = performance.now();
	const answer = await fetch(new URL(path, ROOT), { ...options, headers, credentials: "omit" });
	const text = await answer.text();
	if (!answer.ok) throw new Refused(answer, text);
	return { answer, text, roundTrip: performance.now() - began };
}

function errorBox({ title = "No answer", message, advice = "Look at the network and send again.", requestId }) {
	const box = el("div", { className: "bad" }, el("strong", {}, title), ` ${message}`, el("p", {}, advice));
	if (requestId) box.append(el("p", { className: "quiet" }, `Request id ${requestId}`));
	return box;
}

const percent = (share) => `${(share * 100).toFixed(1)} %`;

function scoreTable({ kind, share, rows, title = "" }) {
	const heads = kind === "matches" ? ["Question", "Answer", "Probability"] : ["Label", "Score"];
	const largest = share ? 1 : Math.max(...rows.map(({ score }) => Math.abs(score)), Number.MIN_VALUE);
	const lines = rows.slice(0, SHOWN_ROWS).map(({ cells, score }) => {
		const shown = [...cells, share ? percent(score) : score.toPrecision(4)];
		const line = el("tr", {}, ...shown.map((text) => el("td", {}, text)));
		line.style.setProperty("--share", `${((Math.abs(score) / largest) * 100).toFixed(2)}%`);
		return line;
	});
	const head = el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text))));
	const table = el("table", {}, el("caption", {}, title), head, el("tbody", {}, ...lines));
	const more = rows.length > SHOWN_ROWS ? `The best ${SHOWN_ROWS} of ${rows.length}.` : "";
	return el("div", {}, table, el("p", { className: "quiet" }, more));
}

function showGroup(group) {
	if (group.kind === "error") return el("div", { className: "bad" }, `${group.title ?? "Error"}: ${group.message}`);
	if (group.kind === "values") return el("ol", {}, ...group.values.slice(0, 1000).map((value) => el("li", {}, value)));
	return scoreTable(group);
}

function copyButton(text) {
	return button("Copy", async ({ currentTarget }) => {
		try {
			await navigator.clipboard.writeText(text);
			currentTarget.textContent = "Copied";
		} catch {
			currentTarget.textContent = "Select it to copy";
		}
		setTimeout(() => (currentTarget.textContent = "Copy"), 2000);
	});
}

/** It takes the focus so that the keyboard can scroll it. */
const codeBlock = (text, label) => el("pre", { tabIndex: 0, role: "region", "aria-label": label }, text);

function showAnswer({ count, file, picture }, { answer, text, roundTrip }) {
	let groups = [];
	let pretty = text;
	try {
		groups = readAnswer(JSON.parse(text), model.labels, count);
		pretty = layOut(text);
	} catch {
		// No JSON, or nested too deep to lay out: shown as it came.
	}
	if (pretty.length > SHOWN_CHARACTERS) pretty = `${pretty.slice(0, SHOWN_CHARACTERS)}\n… (Copy gives all)`;
	const server = answer.headers.get("x-ms-run-fn-exec-ms");
	const facts = el("p", { className: "facts" }, `${answer.status} ${answer.statusText}`, el("span", {}, `Round trip ${duration(roundTrip)}`));
	if (server) facts.append(el("span", {}, `in the model ${duration(Number(server))}`));
	const article = el("article", {}, facts, ...groups.slice(0, 100).map(showGroup));
	if (picture) article.prepend(el("h3", { className: "picture" }, el("img", { src: picture, alt: "" }), el("span", {}, file)));
	article.append(el("details", { open: !groups.length }, el("summary", {}, "Raw answer"), codeBlock(pretty, "Raw answer"), copyButton(text)));
	byId("answers").append(article);
	// A few words for those who hear the page.
	const first = article.querySelector("tbody tr, li, .bad");
	const cells = [...(first?.cells ?? [first])].map((cell) => cell?.textContent);
	const title = groups[0]?.title ?? "";
	const words = cells.slice(title.endsWith(`: ${cells[0]}`) ? 1 : 0).join(" ");
	return [file, title, words || "the answer is below"].filter(Boolean).join(": ");
}

async function send(calls) {
	running = new AbortController();
	byId("answers").replaceChildren();
	byId("send").textContent = "Stop";
	byId("result").setAttribute("aria-busy", "true");
	const say = (text) => (byId("status").textContent = text);
	say("Scoring …");
	const told = [];
	let total = 0;
	try {
		for (const call of calls) {
			const headers = { "Content-Type": call.contentType };
			const reply = await ask(call.path, { method: "POST", body: call.body, headers, signal: running.signal });
			total += reply.roundTrip;
			told.push(showAnswer(call, reply));
		}
		say(`${told.slice(0, 3).join("; ")} (${duration(total)})`);
	} catch (error) {
		if (error.name === "AbortError") {
			say("Stopped.");
		} else {
			say(`Not scored: ${error.title ?? "no answer"}.`);
			byId("answers").append(errorBox(error));
			if (error.status === 401) showKeyBox(true);
		}
	}
	running = null;
	byId("send").textContent = "Score";
	byId("result").setAttribute("aria-busy", "false");
}

/** The requests that are entered, or null; says what is wrong beside the button. */
function readForm() {
	byId("send-note").textContent = "";
	try {
		return form.calls();
	} catch (error) {
		byId("send-note").textContent = error.message;
		return null;
	}
}

/** Show what is entered as curl and as Python; called at every change. */
function refresh() {
	const calls = readForm();
	byId("snippets").hidden = !calls;
	if (!calls) return;
	const call = { ...calls[0], url: new URL(calls[0].path, ROOT).href, needsKey: model.needsKey };
	const notes = [];
	if (model.needsKey) notes.push("The environment variable KEY holds the API key.");
	if (calls.length > 1) notes.push(`This is the first of ${calls.length} images.`);
	byId("snippets-note").textContent = notes.join(" ");
	for (const [id, name, write] of [["curl", "curl", asCurl], ["python", "Python", asPython]]) {
		const text = write(call);
		const title = el("div", { className: "title" }, el("h3", {}, name), copyButton(text));
		byId(id).replaceChildren(title, codeBlock(text, `${name} for this call`));
	}
}

function useForm(next) {
	form = next;
	byId("as-json").setAttribute("aria-pressed", String(form !== ownForm));
	byId("fields").replaceChildren(form.element);
	refresh();
}

function showKeyBox(open) {
	byId("key-box").hidden = Boolean(model && !model.needsKey);
	byId("key-box").open = open;
	byId("key-state").textContent = open ? "API key" : "API key in use";
	if (open) byId("key").focus();
}

async function load() {
	byId("trouble").replaceChildren();
	try {
		const { text } = await ask("ui/model.json");
		const isFirst = !model;
		model ??= JSON.parse(text);
		showKeyBox(false);
		// A key that is entered after a refusal must not throw away what was typed.
		if (!isFirst) return;
		document.title = `${model.model} – try it`;
		byId("name").textContent = model.model;
		byId("about").textContent = `${model.framework} ${model.frameworkVersion} · revision ${model.version}`;
		byId("as-json").hidden = model.kind === "image" || model.kind === "json";
		byId("request").hidden = byId("result").hidden = false;
		ownForm = makeForm(model);
		useForm(ownForm);
	} catch (error) {
		if (!model) byId("about").textContent = error.status === 401 ? "This model needs an API key." : "What the model takes cannot be read.";
		if (error.status !== 401 || sessionStorage.getItem(KEY)) byId("trouble").append(errorBox(error));
		if (error.status === 401) showKeyBox(true);
	}
}

byId("key-form").addEventListener("submit", async (event) => {
	event.preventDefault();
	sessionStorage.setItem(KEY, byId("key").value.trim());
	await load();
	if (byId("key-box").open) return;
	byId("key").value = "";
	byId("request").focus();
});
byId("forget").addEventListener("click", () => {
	sessionStorage.removeItem(KEY);
	byId("key").value = "";
	showKeyBox(true);
});
byId("request").addEventListener("submit", (event) => {
	event.preventDefault();
	if (running) return running.abort();
	const calls = readForm();
	if (calls) send(calls);
});
byId("request").addEventListener("input", refresh);
byId("request").addEventListener("keydown", (event) => {
	if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("request").requestSubmit();
});
byId("as-json").addEventListener("click", () => {
	const text = () => layOut(ownForm.json?.() ?? ownForm.calls()[0].body);
	useForm(form === ownForm ? jsonForm(model, text()) : ownForm);
});
load();
