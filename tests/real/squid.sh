# Squid with two workers that share their memory in /dev/shm: one request, then the end. Prints the answer's code.
set -eu
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
chown -R proxy "$where"
port=$((20000 + $$ % 20000))
cat >"$where/conf" <<END
http_port 127.0.0.1:$port
pid_filename $where/pid
cache_log $where/log
access_log none
netdb_filename none
cache_mem 16 MB
memory_cache_shared on
workers 2
cache_effective_user proxy
visible_hostname test
shutdown_lifetime 0 seconds
coredump_dir $where
END
mkdir -p /run/squid && chown proxy /run/squid
squid --foreground -n "test$$" -f "$where/conf" 2>/dev/null &
squid=$!
for _ in $(seq 200); do
    [ "$(grep -c 'Accepting HTTP' "$where/log" 2>/dev/null)" != 2 ] || break
    sleep 0.1
done
/usr/bin/python3 - "$port" <<'END'
import sys, urllib.error, urllib.request
proxy = urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{sys.argv[1]}"})
try:
    print(urllib.request.build_opener(proxy).open("http://127.0.0.1:1/", timeout=20).status)
except urllib.error.HTTPError as answer:
    print(answer.code)
END
kill -TERM $squid
wait $squid
