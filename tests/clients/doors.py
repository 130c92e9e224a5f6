"""Stock clients of three languages, by scenarios; run by `run`, which starts what they call.

The only argument is a JSON file: how to verify tokens ("issuer", "jwks", "identities"), the
"programs" of each language, and the "scenarios". A scenario names a client, the dialect and the
[[client]] whose environment `foretoken env` prints, and what to ask for. Clients are processes of
their own, a few at a time. Prints one JSON object for each check: {"name", "error"}, the error null
if it passed. Never prints a token.
"""

import json
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from verify import read_keys, verify

CLIENT_S = 90
AT_ONCE = 4


def main():
    settings = json.loads(Path(sys.argv[1]).read_text())
    keys = read_keys(settings)
    failed = False
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda scenario: judge(scenario, settings, keys), settings["scenarios"])
        for checks in found:
            for name, error in checks:
                failed = failed or error is not None
                print(json.dumps({"name": name, "error": error}), flush=True)
    sys.exit(failed)


def judge(scenario, settings, keys):
    """Each check of a scenario, with its error."""
    answers, noise = ask(scenario, settings)
    checks = []
    for at, wanted in enumerate(scenario["asks"]):
        answer = answers[at] if at < len(answers) else {"error": f"no answer: {noise}"}
        name = f"{scenario['name']} {wanted['selector']} {wanted['id'] or ''} {wanted['resource']}"
        checks.append((name, fault(answer, wanted, scenario, settings, keys)))
    return checks


def fault(answer, wanted, scenario, settings, keys):
    """What is wrong with an answer."""
    if wanted["holder"] is None and "token" in answer:
        return "a token, where a refusal was due"
    if wanted["holder"] is None and not answer["error"].startswith("no answer"):
        return None
    if "error" in answer:
        return answer["error"]
    try:
        holder = settings["identities"][wanted["holder"]]
        expires_on = None if scenario["blind"] else answer["expires_on"]
        if expires_on is None and not scenario["blind"]:
            return "the client could not read the expiry"
        verify(answer["token"], expires_on, holder, wanted["resource"], settings, keys)
    except Exception as caught:  # whatever the verifier finds is the result
        return f"{type(caught).__name__}: {caught}"
    return None


def ask(scenario, settings):
    """What the client answers, and what it says beside that."""
    try:
        env = {**settings["env"], **told(scenario, settings), **scenario["env"]}
        program = settings["programs"][scenario["program"]]
        fields = ("selector", "id", "resource")
        asks = [{field: it[field] for field in fields} for it in scenario["asks"]]
        done = subprocess.run(
            [*program["command"], scenario["client"], json.dumps(asks)],
            cwd=program["folder"],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
        )
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        return [], f"{type(error).__name__}: {error}"
    return [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"], done.stderr


def told(scenario, settings):
    """The variables that `foretoken env` prints, as a reader of dotenv takes them."""
    if scenario["dialect"] is None:
        return {}
    command = [settings["foretoken"], "env", *scenario["caller"], "--dialect", scenario["dialect"]]
    command += ["--format", "dotenv", "--config", scenario["config"]]
    done = subprocess.run(
        command, env=settings["env"], capture_output=True, text=True, timeout=CLIENT_S, check=False
    )
    if done.returncode != 0:
        raise ValueError(f"foretoken env: {done.stderr}")
    words = [shlex.split(line)[0] for line in done.stdout.splitlines()]
    return dict(word.split("=", 1) for word in words)


if __name__ == "__main__":
    main()
