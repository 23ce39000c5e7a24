"""The tables of the warehouse, and how events are loaded into them, as SQL for DuckDB.

A room without I/O. In `events`, `time` is in milliseconds; `told` holds the token and the time as
they came, `properties` what has no column of its own; and `raw`, rarely, those properties as they
came where no JSON parser likes them.
"""

from mixpanel.emulator._rules.events import MILLISECONDS_FROM

SCHEMA = """
create table if not exists events (
    seq bigint, event varchar, time bigint, distinct_id varchar, insert_id varchar,
    told varchar, properties json, raw varchar, ingested_at bigint
);
create table if not exists profiles (
    distinct_id varchar, properties json, last_seen bigint
);
create table if not exists groups (
    group_key varchar, group_id varchar, properties json, last_seen bigint
);
create table if not exists aliases (alias varchar, distinct_id varchar);
create table if not exists lookup_tables (id varchar, name varchar, rows json);
create or replace view owners as with recursive chain (alias, distinct_id, hops) as (
    select alias, distinct_id, 1 from aliases
    union all
    select chain.alias, aliases.distinct_id, hops + 1
    from chain join aliases on aliases.alias = chain.distinct_id
) select alias, arg_max(distinct_id, hops) as distinct_id from chain group by alias;
"""
# What copies of one event have in common; one without an id is nothing but itself.
COPY = "event, time, distinct_id, insert_id, case when insert_id is null then seq end"
TAKEN = """{"token":null,"time":null,"distinct_id":null,"$insert_id":null,"ip":null,
    "mp_processing_time_ms":null}"""
LOAD = f"""
insert into events by name with lines as (
    select unnest($lines::varchar[]) as line, generate_subscripts($lines::varchar[], 1) as number
), found as (
    select number, json_extract_string(line, '$.event') as event,
        json_extract(line, '$.properties') as properties,
        json_extract_string(line, [
            '$.properties.time', '$.properties.distinct_id', '$.properties."$insert_id"',
            '$.properties.mp_processing_time_ms'
        ]) as told
    from lines
)
select $seq + number as seq, event,
    round(told[1]::double * if(abs(told[1]::double) >= {MILLISECONDS_FROM}, 1, 1000))::bigint
        as time,
    told[2] as distinct_id, told[3] as insert_id,
    '{{"time":' || told[1] || '}}' as told,
    json_merge_patch(properties, '{TAKEN}') as properties,
    coalesce(told[4]::bigint, $now) as ingested_at
from found where event is not null and told[1] is not null and json_type(properties) = 'OBJECT'
"""  # noqa: S608
TABLES = ("events", "profiles", "groups", "aliases", "lookup_tables")
KEYS = {"profiles": ("distinct_id",), "groups": ("group_key", "group_id")}

MODERNISE = f"""
alter table events add column told varchar;
alter table events add column raw varchar;
update events set told = json_object('time', properties -> '$.time'),
    properties = json_merge_patch(properties, '{TAKEN}');
"""  # noqa: S608
