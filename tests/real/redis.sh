# Redis with its data in /dev/shm: what a server has, its successor loads. Prints a line for each such change.
set -eu
cd /dev/shm

server() {
    redis-server --port 0 --unixsocket socket --dir . --dbfilename dump.rdb --logfile log \
        --enable-debug-command local "$@" &
    server=$!
    for _ in $(seq 600); do
        [ "$(redis ping 2>&1)" != PONG ] || return 0
        sleep 0.1
    done
    exit 99
}
redis() { redis-cli -e -s socket "$@"; }
load() {
    redis-benchmark -s socket -q --csv -c 20 -n "$1" -r 20000 -d 500 -t set,incr,lpush,sadd,hset,zadd,mset >/dev/null
}
settled() { # settled FIELD: wait until what INFO tells of is over
    for _ in $(seq 600); do
        redis info persistence | grep -qE "^($1):1" || return 0
        sleep 0.1
    done
    exit 98
}
digest() { redis debug digest && redis dbsize; }
same() { # same WHAT: after a change of servers
    [ "$before" = "$(digest)" ] || { echo "not $1: $before is now $(digest)" && exit 97; }
    echo "$1"
}
trap 'status=$?; [ $status = 0 ] || { cat log || :; kill -9 $server || :; }' EXIT

snapshots='--save 3600 1 --appendonly no'
log='--save 3600 1000000000 --appendonly yes --auto-aof-rewrite-percentage 0 --appendfsync'
rewriting='aof_rewrite_in_progress|aof_rewrite_scheduled'

server $snapshots
load 30000
redis bgsave >/dev/null
load 3000 # while a child writes what was
settled rdb_bgsave_in_progress
before=$(digest)
redis shutdown save
wait $server
redis-check-rdb dump.rdb >check || { cat check && exit 96; }
server $snapshots
same 'loaded from a snapshot'
redis config set appendonly yes >/dev/null
settled "$rewriting"
redis shutdown nosave
wait $server
server $log everysec
same 'loaded from the log'

load 20000
redis bgrewriteaof >/dev/null
load 3000
settled "$rewriting"
redis config set appendfsync always >/dev/null
load 2000
before=$(digest)
{ kill -9 $server && wait $server; } 2>/dev/null || :
redis-check-aof appendonlydir/*.manifest >check || { cat check && exit 95; }
server $log always
same 'loaded from the log after a kill'

redis config set maxmemory 4mb maxmemory-policy allkeys-lru >/dev/null
load 1000
redis shutdown nosave
wait $server
! grep -iE '# .*(error|fail|corrupt|panic)' log | grep -v 'WARNING Memory overcommit'
rm -r dump.rdb appendonlydir log check
ls -A
