"""Makes the folder that the two servers of `cargo xtask conformance` are started on.

prepare.py FOLDER --program TIDEMILL

models/          checkpoints of every kind that is served
repository/      models that are loaded and let go of while the server runs; one of them is broken
server.toml      everything switched on, for callers without keys
guarded.toml     the same models behind keys and TLS
keys.json        the keys, by their names; keys.toml has their hashes
ca.pem           the authority of the guarded server's certificate
"""

import argparse
import json
import pathlib
import subprocess

import trustme

import stored

OPEN = """\
packages = [{models}]
precision = "float32"
threads = 1
allow_code = true
shared_memory = true

[admin]
enabled = true

[repository]
path = "repository"
load = ["resident"]
"""
GUARDED = """\
packages = ["identity=builtin:identity", "embedder=models/embedder", "generator=models/generator"]
precision = "float32"
threads = 1
keys = "keys.toml"

[admin]
enabled = true

[tls]
certificate = "certificate.pem"
key = "key.pem"
"""
KEYS = {
    "all": ["infer:*", "metrics", "admin"],
    "identity_alone": ["infer:identity"],
    "metrics_alone": ["metrics"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--program", required=True)
    arguments = parser.parse_args()
    folder = arguments.folder
    models(folder)
    repository(folder / "repository")
    keys(folder, arguments.program)
    certificates(folder)


def models(folder):
    for name, architecture, head, labels in stored.ENCODERS:
        stored.encoder(folder / "models" / name, architecture, head, labels)
    stored.generator(folder / "models/generator")
    served = {
        "identity": "builtin:identity",
        "summariser": stored.FIXTURES / "checkpoints/t5",
        "translator": stored.FIXTURES / "checkpoints/m2m_100",
        "linear": stored.FIXTURES / "opaque/linear.pt",
    }
    own = {name: f"models/{name}" for name in [encoder[0] for encoder in stored.ENCODERS] + ["generator"]}
    listed = ", ".join(json.dumps(f"{name}={path}") for name, path in {**served, **own}.items())
    (folder / "server.toml").write_text(OPEN.format(models=listed))
    (folder / "guarded.toml").write_text(GUARDED)


def repository(folder):
    for name in ["resident/1", "lodger/1", "lodger/2"]:
        stored.encoder(folder / name, "BertModel", None, None)
    (folder / "broken/1").mkdir(parents=True)
    (folder / "broken/1/config.json").write_text("{")


def keys(folder, program):
    entries, secrets = "", {}
    for name, scopes in KEYS.items():
        command = [program, "--json", "key", "new", name]
        made = subprocess.run([*command, *(f"--scope={scope}" for scope in scopes)], check=True, capture_output=True)
        made = json.loads(made.stdout)
        entries, secrets[name] = entries + made["entry"] + "\n", made["key"]
    # It may be used once a minute, after a first time.
    slow = json.loads(subprocess.run([program, "--json", "key", "new", "slow"], check=True, capture_output=True).stdout)
    entries, secrets["slow"] = entries + slow["entry"] + "requests_per_second = 0.01\nburst = 1\n", slow["key"]
    (folder / "keys.toml").write_text(entries)
    (folder / "keys.json").write_text(json.dumps(secrets))


def certificates(folder):
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(folder / "certificate.pem"), append=True)


if __name__ == "__main__":
    main()
