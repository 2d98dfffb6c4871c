from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from penstock.testing import AgentHarness
from penstock_agents.security_scanner import ScanOutput, scan
from penstock_agents.security_scanner.scanners import RULES
from support.checkouts import Repository


class Sample(NamedTuple):
    """A file that a rule must find, and one that it must not."""

    file: str
    bad: str
    good: str


_GO = "package a\n\nfunc f(w http.ResponseWriter, r *http.Request, x string) {\n\t%s\n}\n"
_JAVA = (
    "class A {\n  void f(HttpServletRequest r, Statement s, String x) throws Exception {\n    %s\n  }\n}\n"
)
_FLASK = "import flask\nimport requests\n\n\ndef f():\n    name = flask.request.args['n']\n    return %s\n"
_RUN = "jobs:\n  a:\n    steps:\n      - env: {TITLE: t}\n        run: echo %s\n"


def _go(bad: str, good: str) -> Sample:
    return Sample("a.go", _GO % bad, _GO % good)


def _java(bad: str, good: str) -> Sample:
    return Sample("A.java", _JAVA % bad, _JAVA % good)


def _python(bad: str, good: str, file: str = "a.py") -> Sample:
    return Sample(file, bad + "\n", good + "\n")


def _script(bad: str, good: str, file: str = "a.js") -> Sample:
    return Sample(file, bad + "\n", good + "\n")


def _shell(bad: str, good: str) -> Sample:
    return Sample("a.sh", f"#!/bin/bash\n{bad}\n", f"#!/bin/bash\n# {bad}\n{good}\n")


def _docker(bad: str, good: str) -> Sample:
    return Sample("Dockerfile", f"FROM debian:12\n{bad}\n", f"FROM debian:12\n{good}\n")


def _yaml(bad: str, good: str, file: str = "a.yaml") -> Sample:
    return Sample(file, bad + "\n", good + "\n")


SAMPLES = {
    "py-eval": _python("eval(x)", "eval('1 + 1')"),
    "py-os-command": _python("import os\nos.system('ls ' + x)", "import os\nos.system('ls')"),
    "py-subprocess-shell": _python(
        "import subprocess\nsubprocess.run(x, shell=True)", "import subprocess\nsubprocess.run([x])"
    ),
    "py-unsafe-deserialisation": _python("import pickle\npickle.loads(x)", "import json\njson.loads(x)"),
    "py-yaml-load": _python("import yaml\nyaml.load(x)", "import yaml\nyaml.load(x, Loader=yaml.SafeLoader)"),
    "py-weak-hash": _python(
        "import hashlib\nhashlib.md5(x)", "import hashlib\nhashlib.md5(x, usedforsecurity=False)"
    ),
    "py-weak-cipher": _python(
        "from Crypto.Cipher import AES\nAES.new(k, AES.MODE_ECB)",
        "from Crypto.Cipher import AES\nAES.new(k, AES.MODE_GCM)",
    ),
    "py-tls-verification-off": _python(
        "import requests\nrequests.get(u, verify=False)", "import requests\nrequests.get(u, verify=True)"
    ),
    "py-sql-string": _python(
        "cursor.execute(f'SELECT * FROM t WHERE a = {x}')",
        "cursor.execute('SELECT * FROM t WHERE a = %s', (x,))",
    ),
    "py-debug-server": _python("app.run(debug=True)", "app.run(debug=False)"),
    "py-debug-setting": _python("DEBUG = True", "DEBUG = False", "settings.py"),
    "py-insecure-temporary-file": _python(
        "import tempfile\ntempfile.mktemp()", "import tempfile\ntempfile.mkstemp()"
    ),
    "py-jwt-unverified": _python(
        "import jwt\njwt.decode(t, options={'verify_signature': False})",
        "import jwt\njwt.decode(t, k, algorithms=['HS256'])",
    ),
    "py-path-traversal": _python(_FLASK % "open(name)", _FLASK % "open('fixed')"),
    "py-request-forgery": _python(
        _FLASK % "requests.get(name)", _FLASK % "requests.get('https://example.org')"
    ),
    "py-archive-extraction": _python(
        "import tarfile\ntarfile.open(p).extractall(d)",
        "import tarfile\ntarfile.open(p).extractall(d, filter='data')",
    ),
    "py-autoescape-off": _python(
        "import jinja2\njinja2.Environment(autoescape=False)",
        "import jinja2\njinja2.Environment(autoescape=True)",
    ),
    "js-eval": _script("eval(x);", "eval('1');"),
    "js-command-string": _script("cp.exec(`ls ${x}`);", "cp.execFile('ls', [x]);"),
    "js-html-injection": _script("e.innerHTML = x;", "e.textContent = x;"),
    "js-react-html": _script(
        "const a = <div dangerouslySetInnerHTML={{__html: x}} />;", "const a = <div>{x}</div>;", "a.jsx"
    ),
    "js-weak-hash": _script("crypto.createHash('md5');", "crypto.createHash('sha256');"),
    "js-weak-cipher": _script(
        "crypto.createCipheriv('aes-128-ecb', k, null);", "crypto.createCipheriv('aes-256-gcm', k, v);"
    ),
    "js-tls-verification-off": _script(
        "new https.Agent({rejectUnauthorized: false});", "new https.Agent({keepAlive: true});", "a.ts"
    ),
    "js-sql-string": _script(
        "db.query(`SELECT * FROM t WHERE a = ${x}`);", "db.query('SELECT * FROM t WHERE a = ?', [x]);"
    ),
    "js-jwt-none": _script(
        "jwt.verify(t, k, {algorithms: ['none']});", "jwt.verify(t, k, {algorithms: ['RS256']});"
    ),
    "js-path-traversal": _script(
        "app.get('/', (req, res) => { fs.readFile(req.query.name, f); });",
        "app.get('/', (req, res) => { fs.readFile(path.basename(req.query.name), f); });",
    ),
    "js-unsafe-deserialisation": _script("serialize.unserialize(x);", "JSON.parse(x);"),
    "go-shell-command": _go('exec.Command("sh", "-c", x)', 'exec.Command("ls", x)'),
    "go-tls-verification-off": _go(
        "c := &tls.Config{InsecureSkipVerify: true}", "c := &tls.Config{MinVersion: tls.VersionTLS13}"
    ),
    "go-host-key-ignored": _go("k := ssh.InsecureIgnoreHostKey()", "k := ssh.FixedHostKey(x)"),
    "go-weak-hash": _go("h := md5.New()", "h := sha256.New()"),
    "go-weak-cipher": _go("c, _ := des.NewCipher(k)", "c, _ := aes.NewCipher(k)"),
    "go-sql-string": _go(
        'db.Query("SELECT " + x)',
        'db.Query("SELECT a FROM t WHERE b = $1", x)',
    ),
    "go-unescaped-template": _go("h := template.HTML(x)", 'h := template.HTML("<b>")'),
    "go-path-traversal": _go('os.Open(r.URL.Query().Get("f"))', 'os.Open(filepath.Base(r.FormValue("f")))'),
    "java-command-string": _java(
        'Runtime.getRuntime().exec("ls " + x);', 'new ProcessBuilder("ls", x).start();'
    ),
    "java-sql-string": _java('s.executeQuery("SELECT " + x);', 's.executeQuery("SELECT 1");'),
    "java-unsafe-deserialisation": _java(
        "ObjectInputStream o = new ObjectInputStream(i); Object a = o.readObject();",
        "Object a = new ObjectMapper().readValue(i, A.class);",
    ),
    "java-weak-hash": _java('MessageDigest.getInstance("MD5");', 'MessageDigest.getInstance("SHA-256");'),
    "java-weak-cipher": _java(
        'Cipher.getInstance("AES/ECB/PKCS5Padding");', 'Cipher.getInstance("AES/GCM/NoPadding");'
    ),
    "java-tls-verification-off": Sample(
        "A.java",
        "class A { public boolean verify(String h, SSLSession s) { return true; } }\n",
        "class A { public boolean verify(String h, SSLSession s) { return check(h, s); } }\n",
    ),
    "java-xml-entities": _java(
        "DocumentBuilderFactory f = DocumentBuilderFactory.newInstance();",
        "DocumentBuilderFactory f = DocumentBuilderFactory.newInstance(); f.setFeature(N, true);",
    ),
    "java-path-traversal": _java('new File(r.getParameter("f"));', 'new File("fixed");'),
    "java-script-evaluation": _java(
        "ScriptEngine e = m.get(); e.eval(x);", 'ScriptEngine e = m.get(); e.eval("1");'
    ),
    "sh-eval": _shell('eval "$1"', '"$@"'),
    "sh-download-and-run": _shell(
        "curl -fsS https://example.org/i | sh", "curl -fsS https://example.org/i -o i"
    ),
    "sh-tls-verification-off": _shell("curl -sk https://example.org", "curl -s https://example.org"),
    "sh-world-writable": _shell("chmod -R 777 data", "chmod -R 750 data"),
    "sh-host-key-ignored": _shell("ssh -o StrictHostKeyChecking=no a", "ssh -o StrictHostKeyChecking=yes a"),
    "docker-root-user": _docker("USER root", "USER root\nRUN true\nUSER app"),
    "docker-add-address": _docker("ADD https://example.org/a /a", "COPY a /a"),
    "docker-download-and-run": _docker("RUN curl https://example.org/i | bash", "RUN ./i"),
    "docker-floating-image": Sample("Dockerfile", "FROM debian:latest\n", "FROM debian:12\n"),
    "docker-tls-verification-off": _docker(
        "RUN wget --no-check-certificate https://example.org/a", "RUN wget https://example.org/a"
    ),
    "yaml-privileged-container": _yaml(
        "securityContext:\n  privileged: true", "securityContext:\n  privileged: false"
    ),
    "yaml-host-namespace": _yaml("spec:\n  hostNetwork: true", "spec:\n  hostNetwork: false"),
    "yaml-container-socket": _yaml(
        "volumes:\n  - /var/run/docker.sock:/s", "volumes:\n  # /var/run/docker.sock\n  - /data:/data"
    ),
    "yaml-tls-verification-off": _yaml(
        "tls:\n  insecureSkipVerify: true", "tls:\n  insecureSkipVerify: false"
    ),
    "yaml-workflow-injection": _yaml(
        _RUN % '"${{ github.event.issue.title }}"', _RUN % '"$TITLE"', ".github/workflows/a.yaml"
    ),
}


@pytest.fixture(scope="module")
def found(tools_env: Path, tmp_path_factory: pytest.TempPathFactory) -> set[tuple[str, str]]:
    """Scan all samples at once; give each rule with the sample's folder it was found in."""
    assert tools_env.is_dir()
    repository = Repository(tmp_path_factory.mktemp("samples") / "repository")
    for rule, sample in SAMPLES.items():
        repository.write({f"bad/{rule}/{sample.file}": sample.bad, f"good/{rule}/{sample.file}": sample.good})
    inputs = {"repository_path": str(repository.root), "min_severity": "info", "tools": ["semgrep"]}
    output: ScanOutput = asyncio.run(AgentHarness(scan).run(inputs))
    return {(item.rule, item.file.rsplit("/", item.file.count("/") - 1)[0]) for item in output.findings}


def _rules() -> list[dict[str, Any]]:
    yaml: Any = YAML(typ="safe")
    return [rule for file in RULES.glob("*.yaml") for rule in yaml.load(file)["rules"]]


def test_rules_each_have_samples() -> None:
    rules = _rules()

    assert sorted(rule["id"] for rule in rules) == sorted(SAMPLES)


def test_rules_never_quote_what_they_matched() -> None:
    rules = _rules()

    assert [rule["id"] for rule in rules if "$" in rule["message"] or rule["message"][-1] != "."] == []
    assert all(rule["metadata"]["cwe"].startswith("CWE-") for rule in rules)


@pytest.mark.parametrize("rule", SAMPLES)
def test_rule_finds_the_bad_sample_only(rule: str, found: set[tuple[str, str]]) -> None:
    assert (rule, f"bad/{rule}") in found
    assert (rule, f"good/{rule}") not in found
