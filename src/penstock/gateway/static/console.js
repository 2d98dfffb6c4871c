// The console's pages in a browser: they keep themselves up to date, take decisions and listen to keys.
// Whatever comes from a server is put in as text, or as a page that this server has rendered.
"use strict";

(() => {
  const EVERY_MS = 4000;
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  const DONE = {
    approved: "Approved. The run goes on.",
    rejected: (request) => `Rejected. ${request.node} does not run.`,
    sent_back: "Sent back. The run plans again with your note.",
    edited: "Approved with your edits. The plan is made again with them.",
    open: (request) => `Your approval is recorded. It still needs ${request.needs}.`,
  };
  const ASK = { approve: "Approve this?", reject: "Reject this?", send_back: "Send it back with your note?" };

  // ---- Pages that keep themselves up to date

  let failures = 0;
  let loading = null;

  function refresh() {
    loading ??= load().finally(() => { loading = null; });
    return loading;
  }

  async function load() {
    try {
      const address = find("[data-refresh]")?.dataset.refresh ?? location.href;
      const answer = await fetch(address, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.redirected && new URL(answer.url).pathname !== location.pathname) return signedOut();
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(new DOMParser().parseFromString(await answer.text(), "text/html"));
      failures = 0;
      stale("");
    } catch {
      failures += 1;
      if (failures > 1) stale("Penstock does not answer. This page is not up to date.");
    }
  }

  function show(fresh) {
    document.title = fresh.title;
    localTimes(fresh);
    for (const part of all("[data-live]")) {
      const next = fresh.getElementById(part.id);
      if (!next || same(part, next)) continue;
      const focused = part.contains(document.activeElement) ? document.activeElement : null;
      part.replaceWith(next);
      if (part.id === "decide") changed(part, next);
      if (focused) (twin(focused, next) ?? find("#outcome"))?.focus();
    }
  }

  // Finds what somebody was at in a part that has been replaced; never anything else that decides.
  function twin(focused, next) {
    if (focused.id) return document.getElementById(focused.id);
    const address = focused.getAttribute("href");
    return all("a[href]", next).find((one) => address && one.getAttribute("href") === address);
  }

  function changed(part, next) {
    const [typed, empty] = [find("#comment", part), find("#comment", next)];
    if (typed && empty) empty.value = typed.value;
    wireDecision();
    if (!busy) say("warn", "This request has changed since you opened it.");
  }

  // A part with a version is replaced only when that changes, for people type into it.
  function same(part, next) {
    return part.dataset.live ? part.dataset.live === next.dataset.live : part.innerHTML === next.innerHTML;
  }

  function stale(message) {
    const note = find("#stale");
    if (!note || note.textContent === message) return;
    note.textContent = message;
    note.hidden = !message;
  }

  function signedOut() {
    const note = find("#stale");
    clearInterval(timer);
    if (!note || !note.hidden) return;
    note.replaceChildren("You are signed out. ", link(loginAddress(), "Sign in again"));
    note.hidden = false;
  }

  function loginAddress() {
    return `/login?${new URLSearchParams({ next: location.pathname + location.search })}`;
  }

  function link(href, text) {
    const made = document.createElement("a");
    made.href = href;
    made.textContent = text;
    return made;
  }

  // The server does not know the zone that somebody lives in.
  function localTimes(within) {
    for (const time of all("time[datetime]", within)) time.title = new Date(time.dateTime).toLocaleString();
  }

  // ---- Decisions

  let busy = false;
  let pending = null;
  let wanted = null;

  const part = () => find("#decide");
  const able = () => Boolean(find("#answers:enabled")) && !busy;

  function wireDecision() {
    pending = null;
    const decide = part();
    if (!decide) return;
    for (const button of all("[data-decision]", decide)) {
      button.addEventListener("click", () => press(button.dataset.decision));
    }
    for (const button of all("[data-open]", decide)) {
      button.addEventListener("click", () => open(button.dataset.open));
    }
    for (const button of all("[data-close]", decide)) button.addEventListener("click", closeForms);
    find("[data-code]", decide)?.addEventListener("click", makeCode);
    find("#confirm-yes")?.addEventListener("click", () => pending && press(pending));
    find("#confirm-no")?.addEventListener("click", unask);
    find("#comment")?.addEventListener("input", () => find("#comment").removeAttribute("aria-invalid"));
    find("#edit")?.addEventListener("submit", sendEdits);
    find("#glass")?.addEventListener("submit", breakGlass);
    const more = find("#more");
    if (more && matchMedia("(min-width: 900px)").matches) more.open = true;
  }

  function press(decision) {
    const comment = find("#comment").value.trim();
    if (decision === "send_back" && !comment) return needNote();
    return send({ decision, comment });
  }

  function needNote() {
    const comment = find("#comment");
    unask();
    wanted = "send_back";
    comment.setAttribute("aria-invalid", "true");
    say("bad", "Write a note first: what should be different?");
    comment.focus();
  }

  // What a key asks for is asked again on the screen.
  function ask(decision) {
    if (!able() || !find("#buttons")) return;
    if (pending === decision) {
      press(decision);
      return;
    }
    if (decision === "send_back" && !find("#comment").value.trim()) {
      needNote();
      return;
    }
    pending = decision;
    say("", "");
    closeForms();
    find("#confirm-what").textContent = ASK[decision];
    find("#buttons").hidden = true;
    find("#confirm").hidden = false;
    const pressed = find(`[data-decision="${decision}"]`);
    const yes = find("#confirm-yes");
    yes.className = pressed.className;
    yes.replaceChildren(...[...pressed.childNodes].map((node) => node.cloneNode(true)));
    yes.focus();
  }

  function unask() {
    if (!find("#confirm") || !find("#buttons")) return;
    const was = pending;
    pending = null;
    find("#confirm").hidden = true;
    find("#buttons").hidden = false;
    if (was) find(`[data-decision="${was}"]`).focus();
  }

  function open(name) {
    if (!able() || !find(`#${name}`)) return;
    const shut = find(`#${name}`).hidden;
    closeForms();
    if (!shut) return;
    unask();
    find("#more").open = true;
    find(`[data-open="${name}"]`).setAttribute("aria-expanded", "true");
    find(`#${name}`).hidden = false;
    hideButtons(true);
    find("input, textarea, select", find(`#${name}`)).focus();
  }

  function hideButtons(on) {
    for (const part of all("#buttons, #more")) part.hidden = on;
  }

  function closeForms() {
    for (const form of all("form.opened", part())) {
      if (form.hidden) continue;
      form.hidden = true;
      hideButtons(false);
      const opener = find(`[data-open="${form.id}"]`);
      opener.setAttribute("aria-expanded", "false");
      if (form.contains(document.activeElement)) opener.focus();
    }
  }

  function sendEdits(event) {
    event.preventDefault();
    const edits = Object.create(null);
    let wrong = null;
    for (const field of all("[data-kind]", event.target)) {
      const control = find("input, select, textarea", field);
      const problem = take(field, control, edits);
      mark(field, control, problem);
      if (problem) wrong ??= control;
    }
    if (wrong) return wrong.focus();
    if (!Object.keys(edits).length) return say("bad", "Nothing is changed yet.");
    return send({ decision: "approve", comment: find("#comment").value.trim(), edits });
  }

  // Puts what was changed into the edits and gives what is wrong with it.
  function take(field, control, edits) {
    const { name, kind } = field.dataset;
    if (kind === "flag") {
      if (control.checked !== control.defaultChecked) edits[name] = control.checked;
      return "";
    }
    const changed = kind === "choice"
      ? !control.selectedOptions[0]?.defaultSelected
      : control.value !== control.defaultValue;
    if (!control.checkValidity()) return control.validationMessage;
    if (!changed) return "";
    if (kind === "integer" || kind === "number") {
      if (control.value === "") return "Give a number.";
      edits[name] = Number(control.value);
    } else if (kind === "json" || kind === "choice") {
      try {
        edits[name] = JSON.parse(control.value);
      } catch (error) {
        return `This is no JSON: ${error.message}`;
      }
    } else {
      edits[name] = control.value;
    }
    return "";
  }

  function mark(field, control, problem) {
    const wrong = find(".wrong", field);
    wrong.textContent = problem;
    wrong.hidden = !problem;
    control.setAttribute("aria-invalid", String(Boolean(problem)));
    control.setAttribute("aria-describedby", wrong.id);
  }

  function breakGlass(event) {
    event.preventDefault();
    return send({ decision: "approve", comment: find("#reason").value.trim(), break_glass: true });
  }

  async function send(body) {
    if (!able()) return;
    const { id, digest } = find("[data-digest]").dataset;
    const alike = Boolean(find("#alike")?.checked);
    const unlock = lock();
    say("", "Sending …");
    const answer = await post(`/api/approvals/${id}/respond`, { ...body, digest, alike });
    if (answer.ok) done(answer.data);
    else failed(answer);
    await loading; // it may have been asked for before the decision
    await refresh();
    unlock();
  }

  async function post(address, body) {
    try {
      const answer = await fetch(address, {
        method: "POST",
        headers: { "Content-Type": "application/json", Accept: "application/json" },
        body: JSON.stringify(body),
      });
      return { ok: answer.ok, status: answer.status, data: await answer.json() };
    } catch {
      return { ok: false, status: 0, data: {} };
    }
  }

  // Has the buttons rest; what it gives ends that, unless the page has put others there since.
  function lock() {
    const [decide, answers] = [part(), find("#answers")];
    busy = answers.disabled = true;
    decide.ariaBusy = "true";
    return () => {
      busy = answers.disabled = false;
      decide.ariaBusy = "false";
    };
  }

  function done(request) {
    const words = DONE[request.state] ?? `Recorded: the request is ${request.state}.`;
    const text = typeof words === "string" ? words : words(request);
    const more = request.decided > 1 ? ` ${request.decided} requests that are alike are decided.` : "";
    const leads = ["approved", "edited", "sent_back"].includes(request.state) && request.run_url;
    say("good", text + more, leads ? link(request.run_url, "Look at the run") : null);
    unask();
    closeForms();
    find("#outcome").focus();
  }

  function failed({ status, data }) {
    unask();
    if (status === 401) return say("bad", "You are signed out.", link(loginAddress(), "Sign in again"));
    if (!status) {
      return say("bad", "Penstock did not answer. Try again: one decision counts once, however often it is sent.");
    }
    return say("bad", sentence(data.detail ?? `Penstock answered with status ${status}.`));
  }

  function sentence(text) {
    return text.charAt(0).toUpperCase() + text.slice(1);
  }

  function say(kind, text, more = null) {
    const outcome = find("#outcome");
    outcome.className = text ? `note ${kind}` : "";
    outcome.tabIndex = -1;
    outcome.replaceChildren(text, ...(more ? [" ", more] : []));
  }

  async function makeCode() {
    if (!able()) return;
    const unlock = lock();
    const answer = await post(`/api/approvals/${find("[data-digest]").dataset.id}/code`, {});
    unlock();
    if (!answer.ok) return failed(answer);
    const code = document.createElement("code");
    code.textContent = answer.data.code;
    say("", "For Prefect's form, once: ", code);
    return find("#outcome").focus();
  }

  // ---- Keys

  const KEYS = {
    "?": help,
    j: () => step(1),
    k: () => step(-1),
    a: () => ask("approve"),
    r: () => ask("reject"),
    s: () => ask("send_back"),
    e: () => open("edit"),
    u: () => find("[data-back]")?.click(),
    Escape: leave,
  };

  function onKey(event) {
    if (event.defaultPrevented || find("dialog[open]")) return;
    if (event.ctrlKey && event.key === "Enter" && event.target.id === "comment" && wanted) {
      press(wanted);
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
    if (typing && event.key !== "Escape") return;
    const work = KEYS[event.key];
    if (!work || (part() === null && "arse".includes(event.key))) return;
    event.preventDefault();
    work();
  }

  function step(by) {
    const rows = all(".row-title");
    if (!rows.length) return;
    const at = rows.indexOf(document.activeElement?.closest(".row")?.querySelector(".row-title"));
    const next = at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by));
    rows[next].focus();
    rows[next].closest(".row").scrollIntoView({ block: "nearest" });
  }

  function help() {
    find("#keys")?.showModal();
  }

  function leave() {
    if (part()) {
      unask();
      closeForms();
    }
    if (document.activeElement?.matches("input, textarea, select")) document.activeElement.blur();
  }

  // ---- Start

  for (const button of all("[data-help]")) {
    button.hidden = false;
    button.addEventListener("click", help);
  }
  localTimes(document);
  wireDecision();
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => document.hidden || refresh());
  const timer = setInterval(() => document.hidden || busy || refresh(), EVERY_MS);
})();
