"""The page at `/` in a headless Chromium, as its readers meet it: by keyboard, on a narrow screen, in the dark, with and
without a key. Whatever a case does, a message on the console, a breach of the page's policy, a dialog or a request to
another host fails it.

The browser is found on the PATH, as `chromium`. The guarded server may speak TLS with a certificate of its own.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

from playwright.sync_api import sync_playwright

from cases import Different, case, holds, run, same

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
MARKUP = '<img src=x onerror="alert(1)"></textarea><script>alert(2)</script>'
# Milliseconds that something may take to appear.
PATIENCE = 10_000
KEY = "TIDEMILL_API_KEY"
# The least contrast of text with what is behind it, by WCAG 2.2 AA.
CONTRAST = 4.5

_open = {}


def browser():
    if not _open:
        path = shutil.which("chromium")
        holds(path, "there is no chromium on the PATH")
        playwright = sync_playwright().start()
        _open["browser"] = playwright.chromium.launch(executable_path=path, args=FLAGS.split())
        _open["playwright"] = playwright
    return _open["browser"]


class Reader:
    """A reader's tab, and what went wrong in it."""

    def __init__(self, context, base):
        self.base, self.wrong, self.asked = base, [], []
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda message: self.wrong.append(f"the console says: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"an error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def _dialog(self, dialog):
        self.wrong.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def check(self, refusals):
        others = [url for url in self.asked if not url.startswith(f"{self.base}/")]
        holds(not others, f"it asks {others}")
        wrong = [what for what in self.wrong if not (refusals and re.search(r"status of 4\d\d", what))]
        holds(not wrong, "; ".join(wrong))

    def open(self, model=None):
        self.page.goto(self.base + "/" + (f"#model/{model}" if model else ""))
        if model:
            self.page.get_by_role("heading", name=model, exact=True, level=2).wait_for()

    def submit(self):
        """Sends the form as it stands and waits for the answer; gives what the answer says."""
        self.page.locator("form.try button[type=submit]").click()
        self.page.get_by_text(re.compile("^(Answered|Written) in ")).wait_for()
        return self.page.locator(".result, .log").first.inner_text()


@contextlib.contextmanager
def reader(address, scheme="http", refusals=False, **options):
    """A tab of its own. With `refusals` the server may say no, which browsers write on the console."""
    context = browser().new_context(ignore_https_errors=True, **options)
    try:
        opened = Reader(context, f"{scheme}://{address}")
        yield opened
        opened.check(refusals)
    finally:
        context.close()


def models(arguments):
    with urllib.request.urlopen(f"http://{arguments.address}/tidemill/models") as answer:
        return json.load(answer)["models"]


def of_task(arguments, task, **wanted):
    """A ready model of a task."""
    for model in models(arguments):
        is_ready = any(version["state"] == "ready" for version in model["versions"])
        if is_ready and model.get("task") == task and wanted.items() <= model.items():
            return model["name"]
    raise Different(f"the server has no model of the task {task}")


def each_loaded(arguments):
    return [model for model in models(arguments) if "task" in model]


def eventually(condition, otherwise):
    """Waits until something holds."""
    end = time.monotonic() + PATIENCE / 1000
    while not condition():
        holds(time.monotonic() < end, otherwise)
        time.sleep(0.1)


@case("it lists the models with what they are for, their versions and states")
def listed(arguments):
    with reader(arguments.address) as tab:
        tab.open()
        links = tab.page.locator("#models-list a")
        links.first.wait_for()
        expected = models(arguments)
        same(links.count(), len(expected), "the number of models")
        for model, text in zip(expected, links.all_inner_texts()):
            holds(model["name"] in text, f"{text!r} does not name {model['name']}")
            for version in model["versions"]:
                holds(version["version"] in text, f"{text!r} has no version {version['version']}")
            if all(version["state"] == "ready" for version in model["versions"]) and model["versions"]:
                holds("Ready" in text, f"{text!r} does not say that it is ready")
        same(len(tab.page.locator("#models-list .quiet").all()), len(expected), "how many say what they are for")


@case("every kind of model answers its form")
def every_kind(arguments):
    with reader(arguments.address) as tab:
        for model in each_loaded(arguments):
            tab.open(model["name"])
            fill(tab, model)
            said = tab.submit()
            holds(said.strip(), f"{model['name']} shows no answer")
            for label in model.get("labels", [])[:3] if model["task"] == "text-classification" else []:
                holds(label in said, f"{model['name']} does not show the label {label}: {said!r}")


def fill(tab, model):
    """Texts that fit models of few tokens, where the form's own are longer."""
    short = {"question": "who?", "text": "Ada in London.", "query": "a mill", "texts": "Ada in London.\nthe film"}
    for name, text in short.items():
        field = tab.page.locator(f"form.try [name={name}]")
        if field.count():
            field.fill(text)
    field = tab.page.locator("form.try [name=max_tokens]")
    if model["task"] == "generation":
        tab.page.locator("form.try summary").click()
        field.fill("12")
        tab.page.locator("form.try [name=message]").fill("The mill")


@case("a text is classified by keyboard alone")
def by_keyboard(arguments):
    name = of_task(arguments, "text-classification")
    with reader(arguments.address) as tab:
        tab.open()
        tab.page.locator("#models-list a").first.wait_for()
        press_until(tab, "Tab", f"document.activeElement.hash === '#model/{name}'")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("heading", name=name, exact=True, level=2).wait_for()
        press_until(tab, "Tab", "document.activeElement.name === 'texts'")
        tab.page.keyboard.press("Control+A")
        tab.page.keyboard.type("a tide that comes in")
        press_until(tab, "Tab", "document.activeElement.type === 'submit'")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("status").filter(has_text="Answered in").wait_for()
        said = tab.page.locator(".result").inner_text()
        holds("a tide that comes in" in said and "%" in said, f"the answer says {said!r}")
        # On to the samples, whose languages the arrows change.
        press_until(tab, "Tab", "document.activeElement.role === 'tab'")
        before = tab.page.get_by_role("tabpanel").inner_text()
        tab.page.keyboard.press("ArrowRight")
        holds(tab.page.get_by_role("tabpanel").inner_text() != before, "an arrow does not change the language")


def press_until(tab, key, reached):
    """Presses a key until the focus is where it should be; on the way every place with the focus must show it."""
    for _ in range(80):
        tab.page.keyboard.press(key)
        style = tab.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        where = tab.page.evaluate("document.activeElement.outerHTML.slice(0, 80)")
        holds(style != "none" or "<body" in where, f"the focus does not show on {where}")
        if tab.page.evaluate(reached):
            return
    raise Different(f"{key} never comes to {reached}")


@case("what a model writes appears while it is written")
def streamed(arguments):
    name = of_task(arguments, "generation")
    with reader(arguments.address) as tab:
        tab.open(name)
        tab.page.evaluate(
            """() => {
                window.lengths = [];
                const note = () => window.lengths.push(document.querySelector(".log").textContent.length);
                new MutationObserver(note).observe(document.querySelector(".log"), {childList: true, subtree: true});
            }"""
        )
        tab.page.locator("[name=message]").fill("The mill")
        tab.page.keyboard.press("Enter")
        tab.page.get_by_role("status").filter(has_text="Written in").wait_for()
        lengths = tab.page.evaluate("window.lengths")
        growing = sorted(set(lengths))
        holds(len(growing) > 3 and lengths == sorted(lengths), f"the text had these lengths: {lengths[:20]}")


@case("a conversation goes on, and begins again")
def conversation(arguments):
    name = of_task(arguments, "generation", chat=True)
    with reader(arguments.address) as tab:
        tab.open(name)
        tab.page.locator("form.try summary").click()
        tab.page.locator("[name=max_tokens]").fill("4")
        for turn, message in enumerate(["first", "second"], 1):
            tab.page.locator("[name=message]").fill(message)
            tab.page.keyboard.press("Enter")
            eventually(lambda: tab.page.locator(".turn").count() == 2 * turn, "there are not two turns a message")
            eventually(lambda: tab.page.locator(".log[aria-busy]").count() == 0, "it is still being written")
        code = tab.page.get_by_role("tabpanel").inner_text()
        holds('"first"' in code and '"assistant"' in code, f"the call has not what was said before: {code!r}")
        tab.page.get_by_role("button", name="Begin again").click()
        same(tab.page.locator(".turn").count(), 0, "turns after beginning again")


@case("the figures follow the requests")
def figures(arguments):
    name = of_task(arguments, "text-classification")
    with reader(arguments.address) as tab:
        tab.open(name)
        tiles = tab.page.locator("#figures-tiles")
        tiles.get_by_text("since the server started").wait_for()
        before = counted(tiles)
        for _ in range(3):
            tab.submit()
        eventually(lambda: counted(tiles) >= before + 3, f"the requests are still {before}")
        eventually(lambda: re.search(r"p50\s+[\d.]+ ms\s+p95\s+[\d.]+ ms\s+p99\s+[\d.]+ ms", tiles.inner_text()), "there are no percentiles")
        said = tiles.inner_text()
        for word in ["Open requests", "Queue", "Batch size", "on average"]:
            holds(word in said, f"there is no {word!r} in {said!r}")
        holds("M" in (tiles.locator("path").first.get_attribute("d") or ""), "no line is drawn")
        tab.page.get_by_role("button", name="Pause").click()
        asked = len([url for url in tab.asked if url.endswith("/metrics")])
        time.sleep(2.5)
        same(len([url for url in tab.asked if url.endswith("/metrics")]), asked, "the readings while paused")


def counted(tiles):
    return int(re.search(r"([\d,]+) since the server started", tiles.inner_text())[1].replace(",", ""))


@case("every call is shown in every language")
def samples(arguments):
    with reader(arguments.address) as tab:
        for model in each_loaded(arguments):
            tab.open(model["name"])
            for language in ["curl", "grpcurl", "Python", "Rust"]:
                code = sample(tab, language)
                holds(model["name"] in code and arguments.address in code, f"{language} of {model['name']} is {code!r}")


def sample(tab, language):
    tab.page.get_by_role("tab", name=language, exact=True).click()
    return tab.page.get_by_role("tabpanel").inner_text()


@case("the commands and the Python that are shown run")
def samples_run(arguments):
    with reader(arguments.address) as tab:
        for model in each_loaded(arguments):
            tab.open(model["name"])
            fill(tab, model)
            tab.page.wait_for_timeout(100)
            shown = {"curl": ["bash", "-c"], "Python": [sys.executable, "-c"]}
            for language, command in shown.items():
                if language == "curl" and not shutil.which("curl"):
                    continue
                done = subprocess.run([*command, sample(tab, language)], capture_output=True, text=True, timeout=60)
                said = done.stdout + done.stderr
                holds(done.returncode == 0 and '"error"' not in said and done.stdout.strip(), f"{language} of {model['name']}: {said!r}")


@case("what is copied is what is shown")
def copied(arguments):
    with reader(arguments.address, permissions=["clipboard-read", "clipboard-write"]) as tab:
        tab.open(of_task(arguments, "text-classification"))
        shown = tab.page.get_by_role("tabpanel").inner_text()
        tab.page.get_by_role("button", name="Copy").click()
        tab.page.get_by_text("Copied").wait_for()
        same(tab.page.evaluate("navigator.clipboard.readText()"), shown, "the clipboard")


@case("markup stays text")
def markup(arguments):
    with reader(arguments.address) as tab:
        tab.open(of_task(arguments, "text-classification"))
        tab.page.locator("[name=texts]").fill(MARKUP)
        holds(MARKUP in tab.submit(), "the answer does not show the text as it was written")
        tab.open(of_task(arguments, "generation"))
        tab.page.locator("[name=message]").fill(MARKUP)
        holds(MARKUP in tab.submit(), "the log does not show the text as it was written")
        same(tab.page.locator("main img, main script").count(), 0, "elements made of a text")


@case("a screen of 320 pixels needs no scrolling sideways")
def narrow(arguments):
    with reader(arguments.address, viewport={"width": 320, "height": 640}) as tab:
        for model in each_loaded(arguments):
            tab.open(model["name"])
            fill(tab, model)
            tab.submit()
            width = tab.page.evaluate("document.documentElement.scrollWidth")
            holds(width <= 320, f"the page of {model['name']} is {width} pixels wide")


@case("it is legible in the light and in the dark")
def colours(arguments):
    for scheme in ["light", "dark"]:
        with reader(arguments.address, color_scheme=scheme, reduced_motion="reduce") as tab:
            tab.open(of_task(arguments, "text-classification"))
            tab.submit()
            tab.page.mouse.move(1, 1)
            paper = tab.page.evaluate("luminance(getComputedStyle(document.body).backgroundColor)" + LUMINANCE)
            holds(paper > 0.8 if scheme == "light" else paper < 0.05, f"{scheme}: the paper has the luminance {paper}")
            poor = tab.page.evaluate(POOR + LUMINANCE)
            holds(not poor, f"{scheme}: too little contrast: {poor}")


# Functions of the page's language come after what calls them: they are hoisted.
LUMINANCE = """;
function luminance(colour) {
    const part = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = colour.match(/[\\d.]+/g).map((value) => part(Number(value) / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}"""
POOR = f"""poor();
function behind(node) {{
    for (; node; node = node.parentElement) {{
        const colour = getComputedStyle(node).backgroundColor;
        if (colour.startsWith("rgb(")) return colour;
    }}
    return "rgb(255, 255, 255)";
}}
function poor() {{
    const texts = [...document.querySelectorAll("body *")].filter((node) =>
        node.checkVisibility() && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
    return texts.filter((node) => !node.closest(".skip")).map((node) => {{
        const [text, paper] = [luminance(getComputedStyle(node).color), luminance(behind(node))];
        const contrast = (Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05);
        return [contrast, node];
    }}).filter(([contrast]) => contrast < {CONTRAST}).map(([contrast, node]) =>
        `${{node.textContent.slice(0, 40)}} ${{contrast.toFixed(2)}}`);
}}"""


@case("every control has a name")
def names(arguments):
    with reader(arguments.address) as tab:
        for model in each_loaded(arguments):
            tab.open(model["name"])
            nameless = tab.page.evaluate(
                """[...document.querySelectorAll("input, textarea, select, button, a")].filter((control) =>
                    !(control.labels?.length || control.getAttribute("aria-label") || control.textContent.trim())
                ).map((control) => control.outerHTML.slice(0, 80))"""
            )
            holds(not nameless, f"{model['name']}: {nameless}")


def guarded(arguments, **options):
    scheme = "https" if (arguments.folder / "ca.pem").exists() else "http"
    return reader(arguments.guarded, scheme, **options)


def key(arguments, name):
    return json.loads((arguments.folder / "keys.json").read_text())[name]


def enter(tab, secret):
    # Where it is not asked for at once.
    eventually(lambda: tab.page.locator("#server-state").inner_text() != "Connecting", "the server does not answer")
    if not tab.page.locator("#key-value").is_visible():
        tab.page.get_by_role("button", name="API key").click()
    tab.page.locator("#key-value").fill(secret)
    tab.page.get_by_role("button", name="Use this key").click()


@case("without a key it asks for one, and a wrong one is told apart")
def keyless(arguments):
    with guarded(arguments, refusals=True) as tab:
        tab.open()
        tab.page.get_by_role("alert").filter(has_text="asks for an API key").wait_for()
        same(tab.page.locator("#models-list a").count(), 0, "models without a key")
        enter(tab, "tm_wrong")
        tab.page.get_by_role("alert").filter(has_text="does not know this key").wait_for()
        same(tab.page.locator("#models-list a").count(), 0, "models with a wrong key")


@case("a key opens what its scopes say, and is never shown or in an address")
def keyed(arguments):
    secret = key(arguments, "all")
    with guarded(arguments, refusals=True) as tab:
        tab.open()
        enter(tab, secret)
        tab.page.locator("#models-list a").first.wait_for()
        tab.page.locator("#figures-tiles").get_by_text("since the server started").wait_for()
        holds(f"${KEY}" in sample(tab, "curl"), "the command does not say where the key comes from")
        holds(secret not in tab.page.content(), "the key is in the page")
        holds(not any(secret in url for url in tab.asked), "the key is in an address")
        tab.page.reload()
        tab.page.get_by_role("alert").filter(has_text="asks for an API key").wait_for()
        tab.page.get_by_label("Keep until this tab is closed").check()
        enter(tab, secret)
        tab.page.locator("#models-list a").first.wait_for()
        tab.page.reload()
        tab.page.locator("#models-list a").first.wait_for()


@case("a key without a scope is told what is missing")
def scopes(arguments):
    with guarded(arguments, refusals=True) as tab:
        tab.open()
        enter(tab, key(arguments, "identity_alone"))
        tab.page.locator("#models-list a").first.wait_for()
        same(tab.page.locator("#models-list .name").all_inner_texts(), ["identity"], "the models")
        tab.page.get_by_text("no scope metrics").wait_for()
        same(tab.page.locator(".tile").count(), 0, "figures")
        same([url for url in tab.asked if url.endswith("/metrics")], [], "readings of the metrics")
        enter(tab, key(arguments, "metrics_alone"))
        tab.page.get_by_text("no scope infer").wait_for()
        tab.page.locator(".tile").first.wait_for()


if __name__ == "__main__":
    os.environ.pop(KEY, None)
    run("guarded", "folder")
