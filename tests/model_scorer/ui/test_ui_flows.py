"""The page in a browser, before a scorer that answers what the test says."""

from __future__ import annotations

import json
import threading

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

KEY = "right-key"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
const data = new DataTransfer();
for (const name of arguments[1]) data.items.add(new File([bytes], name, {type: "image/png"}));
const event = arguments[2] === "paste"
  ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
  : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
document.querySelector(".drop").dispatchEvent(event);
return event.defaultPrevented;
"""


def model(kind, **fields):
    return {
        "model": "faq",
        "version": "r7",
        "framework": "sklearn",
        "frameworkVersion": "1.7.2",
        "needsKey": True,
        "maxBodyBytes": 10_000_000,
        "labels": [],
        "body": {"data": [[1, 2]]},
        "path": "score",
        "kind": kind,
        **fields,
    }


QUESTION = model("text", text={"key": "input", "example": "why is 'this' undefined?"})
ROWS = model(
    "rows",
    rows={
        "columns": [
            {"name": "age", "type": "number"},
            {"name": "job", "type": "string"},
            {"name": "member", "type": "boolean"},
        ],
        "named": True,
        "example": [[30, "cook", True]],
        "infer": None,
    },
)
MATCHES = [[11922383 + n, 11922384 + n, round(0.53 / (n + 1), 6)] for n in range(182)]


def faq(path, body):
    return (
        200,
        {"result": [MATCHES[::-1], "Computed in 58.96 ms"]},
        {"x-ms-run-fn-exec-ms": "58.961"},
    )


def test_a_question_shows_its_best_15_matches(page, serve):
    scorer = serve(QUESTION, reply=faq)
    page.open(scorer.url, key=KEY)
    assert page.text("h1") == "faq"
    assert page.find("#question").get_property("value") == "why is 'this' undefined?"
    page.type("#question", 'what\'s a "closure"?')
    page.score()
    assert scorer.bodies() == [{"input": 'what\'s a "closure"?'}]
    rows = page.texts("#answers tbody tr")
    assert len(rows) == 15
    assert rows[0] == "11922383 11922384 53.0 %"
    assert "The best 15 of 182" in page.text("#answers")
    assert "Round trip" in page.text(".facts")
    assert "in the model 59 ms" in page.text(".facts")
    assert page.text("#status").startswith("11922383 11922384 53.0 %")
    widths = page.run(
        "return [...document.querySelectorAll('#answers tbody tr')]"
        ".map((r) => parseFloat(r.style.getPropertyValue('--share')))"
    )
    assert widths[:3] == [53.0, 26.5, 17.67]


def test_the_raw_answer_is_shown_as_it_came(page, serve):
    scorer = serve(
        QUESTION, reply=lambda p, b: (200, b'{"big": 12345678901234567890, "x": 1.50}', {})
    )
    page.open(scorer.url, key=KEY)
    page.score()
    assert page.text("#answers pre") == '{"big": 12345678901234567890, "x": 1.50}'


def data_of(page):
    """What the Python program would send."""
    code = page.run("return document.querySelector('#python pre').textContent")
    names = {}
    exec(
        code.split("request =")[0].replace("import os\n", "").replace('os.environ["KEY"]', '""'),
        names,
    )
    return json.loads(names["data"])


def test_curl_and_python_are_the_same_call_without_the_key(page, serve):
    scorer = serve(QUESTION, reply=faq)
    page.open(scorer.url, key=KEY)
    address = scorer.url.removesuffix("/ui") + "/score"
    page.type("#question", "what's true?")
    assert page.text("#curl pre") == (
        f"curl '{address}' \\\n"
        '  -H "Authorization: Bearer $KEY" \\\n'
        "  -H 'Content-Type: application/json' \\\n"
        "  --data-raw '{\"input\": \"what'\\''s true?\"}'"
    )
    assert KEY not in page.run("return document.documentElement.outerHTML")
    assert f'"{address}"' in page.text("#python pre")
    assert data_of(page) == {"input": "what's true?"}


def test_python_says_what_json_says(page, serve):
    scorer = serve(model("json", needsKey=False, body={}))
    page.open(scorer.url)
    body = {"a": [True, False, None, "true null", 'quote " back\\slash /', "ü😀\n"], "b": -1.5e-7}
    page.run(
        "const f = document.querySelector('#json'); f.value = arguments[0];"
        "f.dispatchEvent(new Event('input', {bubbles: true}))",
        json.dumps(body).replace("slash /", "slash \\/"),
    )
    assert data_of(page) == body
    assert "KEY" not in page.text("#curl") + page.text("#python")


def test_a_row_is_edited_by_fields_and_rows_are_added_and_removed(page, serve):
    scorer = serve(ROWS, reply=lambda p, b: (200, [0.25] * len(json.loads(b)["data"]), {}))
    page.open(scorer.url, key=KEY)
    page.type("#cell-0-0", "-4.5")
    page.type("#cell-0-1", "baker")
    page.click("#cell-0-2 option:last-child")
    page.click("#add-row")
    assert page.focused() == "cell-1-0"
    page.find("#cell-1-0").clear()
    page.score()
    first = {"age": -4.5, "job": "baker", "member": False}
    assert scorer.bodies() == [{"data": [first, {**first, "age": None}]}]
    assert page.texts("#answers li") == ["0.25", "0.25"]
    page.click("#rows fieldset:first-child > button")
    assert page.texts("#rows legend") == ["Row 1"]
    assert page.focused() == "cell-1-0"
    page.click("#as-json")
    assert json.loads(page.find("#json").get_property("value"))["data"][0]["job"] == "baker"
    page.click("#as-json")
    assert page.find("#cell-1-1").get_property("value") == "baker"


def test_a_classifier_shows_probabilities_by_row(page, serve):
    infer = {
        "path": "v2/models/faq/infer",
        "inputs": [{"name": "X", "datatype": "FP64"}],
        "outputs": ["predict", "predict_proba"],
    }
    columns = [{"name": f"Feature {n}", "type": "number"} for n in (1, 2)]
    rows = {"columns": columns, "named": False, "example": [[1, 2], [3, 4]], "infer": infer}
    reply = {
        "outputs": [
            {"name": "predict", "datatype": "BYTES", "shape": [2], "data": ["cat", "dog"]},
            {
                "name": "predict_proba",
                "datatype": "FP64",
                "shape": [2, 2],
                "data": [0.9, 0.1, 0.2, 0.8],
            },
        ]
    }
    scorer = serve(model("rows", rows=rows), reply=lambda p, b: (200, reply, {}))
    page.open(scorer.url, key=KEY)
    page.score()
    assert scorer.requests[0][0] == "/v2/models/faq/infer"
    assert scorer.bodies()[0]["inputs"] == [
        {"name": "X", "datatype": "FP64", "shape": [2, 2], "data": [1, 2, 3, 4]}
    ]
    assert page.texts("#answers caption") == ["Row 1: cat", "Row 2: dog"]
    assert page.texts("#answers tbody tr") == [
        "class 0 90.0 %",
        "class 1 10.0 %",
        "class 1 80.0 %",
        "class 0 20.0 %",
    ]


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_images_are_dropped_or_pasted_and_sent_one_by_one(page, serve, way):
    scorer = serve(
        model("image"), reply=lambda p, b: (200, [[["lynx", 0.9966], ["leopard", 0.0013]]], {})
    )
    page.open(scorer.url, key=KEY)
    assert page.run(DROP, PNG, ["a.png", "it's b.png"], way) is (way == "drop")
    assert "--data-binary '@a.png'" in page.text("#curl pre")
    assert 'Path("a.png").read_bytes()' in page.text("#python pre")
    page.score()
    assert [headers["Content-Type"] for _, headers, _ in scorer.requests] == ["image/png"] * 2
    assert scorer.requests[0][2].startswith(b"\x89PNG")
    assert page.texts("#answers h3") == ["a.png", "it's b.png"]
    assert page.texts("#answers article:first-child tbody tr") == ["lynx 99.7 %", "leopard 0.1 %"]
    assert page.run("return [...document.images].every((i) => i.complete && i.naturalWidth)")


def test_an_image_is_chosen_as_a_file_and_removed(page, serve, tmp_path):
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / "notes.txt").write_text("no image")
    scorer = serve(model("image", maxBodyBytes=3))
    page.open(scorer.url, key=KEY)
    page.find("#file").send_keys(f"{tmp_path / 'c.png'}\n{tmp_path / 'notes.txt'}")
    assert len(page.texts("#fields li")) == 1
    assert "left out" in page.text("#file-note")
    page.click("#send")
    assert "this model takes" in page.text("#send-note")
    page.click("#fields li button")
    assert page.texts("#fields li") == []
    page.click("#send")
    assert page.text("#send-note") == "Choose an image first."
    assert scorer.requests == []


@pytest.mark.parametrize(
    ("answer", "bars"),
    [
        ([[0.1, 0.7, 0.2]], ["class 1 70.0 %", "class 2 20.0 %", "class 0 10.0 %"]),
        ([0.25, 0.75], ["class 1 75.0 %", "class 0 25.0 %"]),
        ({"tabby": 0.45, "tiger": 0.3}, ["tabby 45.0 %", "tiger 30.0 %"]),
        ({"result": [{"image": [["lynx", 0.9]]}, "Computed in 7.1 ms"]}, ["lynx 90.0 %"]),
        ([["a", 0.9], ["b", 0.1]], ["a 90.0 %", "b 10.0 %"]),
        ([[["a", 12.5], ["b", -3]]], ["a 12.50", "b -3.000"]),
        ({"predictions": [[0.5, 0.5]]}, ["class 0 50.0 %", "class 1 50.0 %"]),
        ([[1, 2, 0.5], [3, 4, 0.25]], ["1 2 50.0 %", "3 4 25.0 %"]),
        ({"deep": {"x": [1]}}, []),
        ([], []),
        (None, []),
    ],
)
def test_answers_become_bars(page, serve, answer, bars):
    page.open(serve(QUESTION, reply=lambda p, b: (200, answer, {})).url, key=KEY)
    page.score()
    assert page.texts("#answers tbody tr") == bars
    assert page.find("#answers pre").is_displayed() == (not bars)


def test_markup_in_an_answer_stays_text(page, serve):
    reply = [["<img src=x onerror=alert(1)>", 0.9], ["</td><script>alert(2)</script>", 0.1]]
    page.open(serve(QUESTION, reply=lambda p, b: (200, reply, {})).url, key=KEY)
    page.score()
    assert page.texts("#answers tbody td")[0] == "<img src=x onerror=alert(1)>"
    assert page.run("return document.querySelectorAll('#answers img, #answers script').length") == 0


def test_one_unreadable_image_of_several_is_told_beside_the_others(page, serve):
    reply = [[["lynx", 0.9]], {"error": "not an image"}]
    page.open(serve(QUESTION, reply=lambda p, b: (200, reply, {})).url, key=KEY)
    page.score()
    assert page.text("#answers .bad") == "Row 2: not an image"


@pytest.mark.parametrize(
    ("status", "headers", "words"),
    [
        (400, {}, "Correct the request"),
        (413, {}, "10.0 MB at most"),
        (500, {"x-request-id": "r-9"}, "Request id r-9"),
        (503, {"Retry-After": "4"}, "in 4 s"),
        (504, {}, "deadline"),
    ],
)
def test_errors_are_shown_with_what_to_do(page, serve, status, headers, words):
    message = "row 0, column 'age': expected a number"
    scorer = serve(QUESTION, reply=lambda p, b: (status, {"message": message}, headers))
    page.open(scorer.url, key=KEY)
    page.score()
    shown = page.text("#answers .bad")
    assert shown.startswith(str(status))
    assert message in shown
    assert words in shown
    assert str(status) in page.text("#status")


def test_a_wrong_key_is_asked_for_again_and_never_stored_beyond_the_tab(page, serve):
    page.open(serve(QUESTION, reply=faq).url)
    assert page.text("#about") == "This model needs an API key."
    assert not page.find("#request").is_displayed()
    assert page.focused() == "key"
    page.type("#key", "wrong")
    page.click("#key-form .primary")
    page.until(lambda: page.texts("#trouble .bad"))
    assert page.text("#trouble .bad").startswith("401")
    page.type("#key", KEY)
    page.click("#key-form .primary")
    page.until(lambda: page.find("#request").is_displayed())
    assert page.texts("#trouble .bad") == []
    assert page.run("return [localStorage.length, document.cookie, sessionStorage.length]") == [
        0,
        "",
        1,
    ]
    assert page.driver.get_cookies() == []


def test_a_key_that_is_withdrawn_later_keeps_what_was_typed(page, serve):
    page.open(serve(QUESTION, reply=faq).url, key=KEY)
    page.type("#question", "kept?")
    page.run("sessionStorage.setItem('scoring-api-key', 'old')")
    page.score()
    assert "401" in page.text("#answers .bad")
    assert page.focused() == "key"
    page.type("#key", KEY)
    page.click("#key-form .primary")
    page.until(lambda: not page.find("#key").is_displayed())
    assert page.find("#question").get_property("value") == "kept?"
    page.score()
    assert len(page.texts("#answers tbody tr")) == 15


def test_no_key_is_asked_for_where_none_is_needed(page, serve):
    page.open(serve({**QUESTION, "needsKey": False}, reply=faq).url)
    assert not page.find("#key-box").is_displayed()
    page.score()
    assert page.texts("#answers tbody tr")


def test_everything_works_by_keyboard_alone(page, serve):
    page.open(serve(QUESTION, reply=faq).url)
    keys = ActionChains(page.driver)
    page.until(lambda: page.focused() == "key")
    keys.send_keys(KEY, Keys.ENTER).perform()
    page.until(lambda: page.focused() == "request")
    seen = []
    for _ in range(12):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        seen.append(page.run("const e = document.activeElement; return e.id || e.textContent"))
        ring = page.run(
            "const s = getComputedStyle(document.activeElement);"
            "return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        if page.run("return document.activeElement !== document.body"):
            assert ring[0] != "none"
            assert ring[1] >= 2
        if seen[-1] == "question":
            ActionChains(page.driver).send_keys(Keys.END, "?").key_down(Keys.CONTROL).send_keys(
                Keys.ENTER
            ).key_up(Keys.CONTROL).perform()
            page.until(lambda: page.texts("#answers tbody tr"))
            page.settle()
    assert {"as-json", "question", "send", "Raw answer", "Copy"} <= set(seen)


def test_every_field_and_button_has_a_name(page, serve):
    page.open(serve(ROWS).url, key=KEY)
    nameless = page.run(
        "return [...document.querySelectorAll('input, textarea, select, button, summary')]"
        ".filter((e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')))"
        ".map((e) => e.outerHTML)"
    )
    assert nameless == []


@pytest.mark.parametrize("width", [320, 390])
@pytest.mark.parametrize(
    "description", [QUESTION, ROWS, model("image"), model("json")], ids=lambda d: d["kind"]
)
def test_nothing_scrolls_sideways_on_a_phone(page, serve, description, width):
    page.emulate(
        "setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=2, mobile=True
    )
    page.open(serve(description, reply=faq).url, key=KEY)
    if description["kind"] == "image":
        page.run(DROP, PNG, [f"{'very-long-name-' * 8}.png"], "drop")
    page.score()
    assert page.texts("#answers tbody tr")
    widest = page.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert widest == [width, width]
    small = page.run(
        "return [...document.querySelectorAll('button, input:not([type=file]), textarea, select')]"
        ".filter((e) => e.offsetParent && e.getBoundingClientRect().height < 44).map((e) => e.id)"
    )
    assert small == []


CONTRAST = """
const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = (c) => { const [r, g, b] = c.map(channel); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  if (!own || !element.checkVisibility() || element.closest(".skip")) continue;
  const surfaces = [];
  for (let e = element; e && !surfaces.length; e = e.parentElement) {
    const style = getComputedStyle(e);
    if (style.backgroundImage !== "none") surfaces.push(...style.backgroundImage.match(/rgba?\\([^)]*\\)/g).map(parse));
    else { const c = parse(style.backgroundColor); if (c.length === 3 || c[3] > 0) surfaces.push(c); }
  }
  const text = luminance(parse(getComputedStyle(element).color).slice(0, 3));
  for (const surface of surfaces) {
    const back = luminance(surface.slice(0, 3));
    const ratio = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName} ${element.className} ${ratio.toFixed(2)}`);
  }
}
return low;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_light_and_in_dark(page, serve, scheme):
    page.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    replies = [faq("", b""), (503, {"message": "busy"}, {})]
    page.open(serve(QUESTION, reply=lambda p, b: replies.pop(0)).url, key=KEY)
    for _ in range(2):
        page.score()
        assert page.run(CONTRAST) == []


def test_a_page_behind_a_prefix_finds_its_own_files(page, serve):
    """`/ui/` leads to the page, whose links are relative."""
    scorer = serve(QUESTION)
    page.open(scorer.url + "/", key=KEY)
    assert page.driver.current_url == scorer.url


def test_a_running_request_can_be_stopped(page, serve):
    release = threading.Event()

    def wait(path, body):
        release.wait(20)
        return 200, [], {}

    page.open(serve(QUESTION, reply=wait).url, key=KEY)
    page.click("#send")
    assert page.text("#send") == "Stop"
    page.click("#send")
    page.until(lambda: page.text("#status") == "Stopped.")
    release.set()
    assert page.text("#send") == "Score"
