# PostgreSQL with its main shared memory as shared_memory_type=$1 has it. Prints what its queries answer.
set -eu
kind=$1 where=$(mktemp -d)
export PGHOST=$where PGDATABASE=postgres PGUSER=postgres PGDATA=$where/data LC_ALL=C
trap 'status=$?; [ $status = 0 ] || { tail -n 50 $where/log || :; pg_ctl -s -m immediate stop || :; }; rm -rf "$where"' EXIT
initdb -A trust -U postgres >/dev/null
printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$where'" "shared_memory_type = $kind" 'shared_buffers = 32MB' 'fsync = off' >>"$PGDATA/postgresql.conf"
pg_ctl -s -w -t 60 -l "$where/log" start
psql -XAtc 'show shared_memory_type'
pgbench -i -q -s 2 2>/dev/null
pgbench -n -c 4 -j 2 -T 4 2>&1 | grep 'failed transactions'
psql -XAtc "select (select sum(abalance) from pgbench_accounts) = total and
       (select sum(tbalance) from pgbench_tellers) = total, number > 0
from (select coalesce(sum(delta), 0) as total, count(*) as number from pgbench_history) as history"
pg_ctl -s -m immediate stop
pg_ctl -s -w -t 60 -l "$where/log" start
psql -XAtc 'select count(*) > 0 from pgbench_history'
pg_ctl -s -m fast stop
