"""SQL for DuckDB: the tables of the warehouse, and how exported events are loaded into them.

In `events`, `time` is in milliseconds. `sent_fields` holds the token and the time as they were
sent, `properties` everything without a column of its own. `raw` is set only for properties that
JSON parsers reject (such as an unpaired surrogate): it holds their original text.
"""

from mixpanel.emulator._rules.events import MILLISECONDS_FROM

SCHEMA = """
create table if not exists events (
    seq bigint, event varchar, time bigint, distinct_id varchar, insert_id varchar,
    sent_fields varchar, properties json, raw varchar, ingested_at bigint
);
create table if not exists profiles (
    distinct_id varchar, properties json, last_seen bigint
);
create table if not exists groups (
    group_key varchar, group_id varchar, properties json, last_seen bigint
);
create table if not exists aliases (alias varchar, distinct_id varchar);
create table if not exists lookup_tables (id varchar, name varchar, rows json);
create table if not exists saved_objects (what varchar, kind varchar, name varchar, content json);
create or replace view owners as with recursive chain (alias, distinct_id, hops) as (
    select alias, distinct_id, 1 from aliases
    union all
    select chain.alias, aliases.distinct_id, hops + 1
    from chain join aliases on aliases.alias = chain.distinct_id
) select alias, arg_max(distinct_id, hops) as distinct_id from chain group by alias;
"""
# Copies of one event have these in common. An event without an $insert_id has no copies.
COPY_KEY = "event, time, distinct_id, insert_id, case when insert_id is null then seq end"
REMOVE_COLUMNS = """{"token":null,"time":null,"distinct_id":null,"$insert_id":null,"ip":null,
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
        ]) as fields
    from lines
)
select $seq + number as seq, event,
    round(fields[1]::double * if(abs(fields[1]::double) >= {MILLISECONDS_FROM}, 1, 1000))::bigint
        as time,
    fields[2] as distinct_id, fields[3] as insert_id,
    '{{"time":' || fields[1] || '}}' as sent_fields,
    json_merge_patch(properties, '{REMOVE_COLUMNS}') as properties,
    coalesce(fields[4]::bigint, $now) as ingested_at
from found where event is not null and fields[1] is not null and json_type(properties) = 'OBJECT'
"""
TABLES = ("events", "profiles", "groups", "aliases", "lookup_tables")
KEYS = {"profiles": ("distinct_id",), "groups": ("group_key", "group_id")}

MIGRATION = f"""
alter table events add column sent_fields varchar;
alter table events add column raw varchar;
update events set sent_fields = json_object('time', properties -> '$.time'),
    properties = json_merge_patch(properties, '{REMOVE_COLUMNS}');
"""
