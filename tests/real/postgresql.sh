# PostgreSQL with everything in /dev/shm: data, sockets, dynamic shared memory. Prints what its queries answer.
set -eu
export PGHOST=/dev/shm PGDATABASE=postgres PGUSER=postgres PGDATA=/dev/shm/data LC_ALL=C

settings="
listen_addresses = ''
unix_socket_directories = '/dev/shm'
dynamic_shared_memory_type = posix
min_dynamic_shared_memory = 1MB
shared_buffers = 16MB
max_wal_size = 96MB
min_wal_size = 32MB
checkpoint_timeout = 30s
wal_sync_method = fdatasync"

# What can be is carried out by parallel workers, who talk through shared memory.
parallel="
set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
set max_parallel_workers_per_gather = 2; set enable_indexonlyscan = off; set enable_indexscan = off"

# pgbench(1): each transaction adds delta to a row of each of three tables, and to the history.
consistent="
select (select sum(abalance) from pgbench_accounts) = total and
       (select sum(tbalance) from pgbench_tellers) = total and
       (select sum(bbalance) from pgbench_branches) = total, number > 0
from (select coalesce(sum(delta), 0) as total, count(*) as number from pgbench_history) as history"

query() { psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$parallel" -c "$1"; }
start() { pg_ctl -s -w -t 60 -l /dev/shm/log start; }
trap 'status=$?; [ $status = 0 ] || { tail -n 50 /dev/shm/log || :; pg_ctl -s -m immediate stop || :; }' EXIT

initdb -k -A trust -U postgres >/dev/null
printf '%s\n' "$settings" >>"$PGDATA/postgresql.conf"
start
pgbench -i -q -s 3 2>/dev/null
pgbench -n -c 4 -j 2 -T 8 2>&1 | grep 'failed transactions'
query "$consistent"
query 'select count(*), sum(hashtext(filler)) is not null from pgbench_accounts'
query 'explain analyze select count(*) from pgbench_accounts' | grep -o 'Workers Launched: 2'
query 'create extension amcheck'

# Killed in the middle of it all: nothing that was committed is lost, nothing else is kept.
pgbench -n -c 4 -j 2 -T 60 >/dev/null 2>&1 &
clients=$!
sleep 3
pg_ctl -s -m immediate stop
wait $clients || :
start
query "$consistent"
pg_amcheck --heapallindexed --parent-check --jobs 2 postgres

# Files that come and go, and change places.
mkdir /dev/shm/room
query "create tablespace room location '/dev/shm/room'"
query 'alter table pgbench_history set tablespace room'
query 'vacuum full'
query 'reindex database postgres'
pg_dump -Fd -j 2 -f /dev/shm/dump
createdb again
pg_restore -j 2 -d again /dev/shm/dump
PGDATABASE=again query "$consistent"
query "$consistent"
pg_ctl -s -m fast stop
pg_checksums --check | grep -i 'bad checksums'
