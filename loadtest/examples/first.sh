#!/bin/sh
# 200 requests a second for two seconds, at an emulator (or a Foretoken) that runs already.
set -e
LOAD=${LOAD:-target/release/foretoken-load}
AT=${AT:-127.0.0.1:16924}

"$LOAD" run --to "$AT" --rate 200 --duration 2s --links 8 --out load.json
python3 - <<'END'
import json

load = json.load(open("load.json"))["loads"][0]
print(load["right"], "right,", sum(load["wrong"].values()), "wrong")
assert load["latency_us"]["p50"] <= load["latency_us"]["p99"]
END
