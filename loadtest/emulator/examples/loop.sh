#!/bin/sh
# What does a client make of each of these? Here the client is curl.
emulator=${EMULATOR:-foretoken-emulator} at=${AT:-127.0.0.1:16934}
"$emulator" --listen "$at" >/dev/null &
pid=$!
trap 'kill "$pid"' EXIT
until "$emulator" ctl --at "$at" list >/dev/null 2>&1; do sleep 0.1; done

url="http://$at/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net"
for mode in set-cookie status-429 half-body html hang; do
  "$emulator" ctl --at "$at" set "$mode" --times 1 >/dev/null
  if curl -sf --max-time 1 -H Metadata:true "$url" | grep -q '^{"access_token":.*}$'; then
    echo "$mode: a token"
  else
    echo "$mode: no token"
  fi
done
"$emulator" ctl --at "$at" counts | grep -A 6 '"modes"'
