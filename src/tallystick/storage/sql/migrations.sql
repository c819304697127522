-- name: has_migrations
select exists(
    select 1
    from information_schema.tables
    where table_schema = current_schema() and table_name = 'schema_migrations'
);

-- name: applied
select version
from schema_migrations;
