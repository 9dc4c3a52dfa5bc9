#!/bin/sh
# A server on the tiny base, loaded by some streams for some seconds (tests/load/load_server.c), then told to stop.
# usage: short.sh PROGRAM LOAD_SERVER [option of load_server ...]
program=$1
load=$2
shift 2
mkdir -p "$Q3_TEST_DIR"
# What was freed is given back at once by a sanitizer too, for the server's memory must stay flat.
export ASAN_OPTIONS="quarantine_size_mb=1:thread_local_quarantine_size_kb=16:$ASAN_OPTIONS"
log=$Q3_TEST_DIR/serve.log
: >"$log" # one of an earlier run would be read
"$program" serve --model assets/tiny-base --device cpu --port 0 --kv-tokens 16384 2>"$log" &
server=$!
trap 'kill $server 2>/dev/null' EXIT
waited=0
until grep -q '^ready ' "$log"; do
    waited=$((waited + 1))
    if [ $waited -gt 300 ] || ! kill -0 $server 2>/dev/null; then
        echo "the server does not become ready:"
        cat "$log"
        exit 1
    fi
    sleep 0.1
done
url=$(sed -n 's,.*\(http://[0-9.:]*\)/$,\1,p' "$log")
"$load" "$url" --pid $server "$@"
loaded=$?
kill -TERM $server
wait $server
stopped=$?
trap - EXIT
if [ $loaded -ne 0 ] || [ $stopped -ne 0 ]; then
    echo "load_server ended with $loaded, the server with $stopped:"
    cat "$log"
    exit 1
fi
