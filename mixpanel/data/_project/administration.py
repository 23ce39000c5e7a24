"""The table's part on accounts, privacy requests, warehouse imports, projects and data views."""

from __future__ import annotations

from mixpanel.data import project
from mixpanel.data._project.table import (
    Endpoint,
    Field,
    Resource,
    boolean,
    changing,
    choice,
    creating,
    deleting,
    document,
    getting,
    ids,
    integer,
    items,
    listing,
    object_id,
    text,
    texts,
    timestamp,
)

__all__ = ["ADMINISTRATION", "ME"]

ME = Endpoint(
    name="me", method="GET", path="me", model=project.Me,
    summary="Show who the credentials belong to, and what they may use.",
)  # fmt: skip
ROLES = ("owner", "admin", "analyst", "consumer")
ACCOUNTS = "organizations/{organization_id}/service-accounts"
ORGANIZATION = object_id(
    "organization_id", "The organization; that of the project by default.", place="path"
)
ACCOUNT_IDS = ids("ids", "The service accounts.", required=True, alias="service_account_ids")
SERVICE_ACCOUNTS = Resource(
    name="service_accounts", singular="service account", model=project.ServiceAccount,
    summary="Service accounts of the organization.",
    endpoints=(
        listing(ACCOUNTS, "List the service accounts of the organization.", ORGANIZATION),
        getting(
            f"{ACCOUNTS}/{{id}}", "Read a service account.", fields=(ORGANIZATION,), example="1018",
        ),
        creating(
            ACCOUNTS, "Create a service account; only this shows its secret.",
            text("username", "Its user name.", required=True),
            choice("role", ROLES, "Its role in the organization.", required=True),
            timestamp("expires", "When it expires; never by default."),
            items("projects", "Objects with the id of a project and a role in it."),
            ORGANIZATION, example="--username robot --role analyst",
        ),
        deleting(f"{ACCOUNTS}/{{id}}", "Delete a service account.", ORGANIZATION, example="1018"),
        Endpoint(
            name="in_project", method="GET", path="{project}/service-accounts",
            summary="List those that may use the project, with their roles.", returns="list",
        ),
        Endpoint(
            name="add_to_project", method="POST", path=f"{ACCOUNTS}/add-to-project",
            summary="Let service accounts use projects.", returns="nothing",
            fields=(
                ACCOUNT_IDS,
                items("projects", "Objects with the id of a project and a role.", required=True),
                ORGANIZATION,
            ),
            example="--ids 1018 --projects '[{\"id\": 4242, \"role\": \"analyst\"}]'",
        ),
        Endpoint(
            name="remove_from_project", method="POST", path=f"{ACCOUNTS}/remove-from-project",
            summary="Take service accounts out of projects.", returns="nothing", danger=True,
            fields=(
                items("projects", "Objects with id and service_account_ids.", required=True),
                ORGANIZATION,
            ),
            example="--projects '[{\"id\": 4242, \"service_account_ids\": [1018]}]'",
        ),
    ),
)  # fmt: skip

# ---- requests of people -------------------------------------------------------------------------

TOKEN = text(
    "token", "The project token.", required=True, place="query", env="MP_TOKEN", is_secret=True
)
PEOPLE = texts("distinct_ids", "Whose data.", required=True, positional=True)
LAWS = ("GDPR", "CCPA")
COMPLIANCE = choice("compliance_type", LAWS, "GDPR by default.")
RETRIEVALS = Resource(
    name="retrievals", singular="retrieval", model=project.DataRequest,
    summary="GDPR and CCPA requests for the data of people.",
    endpoints=(
        getting(
            "data-retrievals/v3.0/{id}", "Show the progress of a request, and where its data are.",
            fields=(TOKEN,), example="1019",
        ),
        creating(
            "data-retrievals/v3.0/", "Request the data of people, at most 2,000 at once.",
            PEOPLE, COMPLIANCE,
            choice(
                "disclosure_type", ("Data", "Categories", "Sources"),
                "What is disclosed, for CCPA.",
            ),
            TOKEN, example="u-17",
        ),
    ),
)  # fmt: skip
PRIVACY_DELETIONS = Resource(
    name="deletions", singular="deletion", model=project.DataRequest,
    summary="GDPR and CCPA requests to delete the data of people.",
    endpoints=(
        getting(
            "data-deletions/v3.0/{id}", "Show the progress of a request.", fields=(TOKEN,),
            example="1020",
        ),
        creating(
            "data-deletions/v3.0/", "Delete all data of people, at most 1,999 at once.",
            PEOPLE, COMPLIANCE, TOKEN, danger=True, example="u-17",
        ),
        deleting(
            "data-deletions/v3.0/{id}", "Cancel a request that has not begun.", TOKEN,
            name="cancel", danger=False, example="1020",
        ),
    ),
)  # fmt: skip

# ---- imports from a warehouse -------------------------------------------------------------------

IMPORTS = "{project}/warehouse-sources/imports"
MODES = ("time_based", "mirror_mode", "full_sync", "one_time")
EVERY = integer(
    "run_every", "Nanoseconds between two runs: 0, or those of an hour, a day or a week."
)
COMMON = (
    integer("warehouse_source_id", "The connection, made in the web interface.", required=True),
    document("table_params", "Which table.", required=True),
)
OPTIONAL = (
    EVERY,
    items("property_mappings", "Columns with other names or types."),
    document("databricks_params", "Of Databricks."),
)


def _import(
    name: str, path: str, modes: tuple[str, ...], summary: str, example: str, *fields: Field
) -> Endpoint:
    mode = choice("sync_mode", modes, "How rows are kept up to date.", required=True)
    return creating(
        f"{IMPORTS}/{path}",
        summary,
        *COMMON,
        mode,
        *fields,
        *OPTIONAL,
        name=name,
        constant={"import_type": path.replace("-", "_")},
        example=f"{SOURCE} {example}",
    )


SOURCE = '--warehouse-source-id 1 --table-params \'{"table": "orders"}\''
WAREHOUSE_IMPORTS = Resource(
    name="warehouse_imports", singular="import", model=project.WarehouseImport,
    summary="Imports from a data warehouse.",
    endpoints=(
        listing(IMPORTS, "List the imports."),
        getting(f"{IMPORTS}/{{id}}", "Read an import.", example="1021"),
        _import(
            "create_events", "event-stream", MODES, "Import events.",
            "--sync-mode time_based --time-column-name at --event-name 'Order Paid'",
            text("time_column_name", "The column with the time.", required=True),
            text("event_name", "The event, if it is always the same."),
            text("event_column_name", "The column with the event."),
            text("user_column_name", "The column with the user."),
            text("device_column_name", "The column with the device."),
            text("company_column_name", "The column with the company."),
            text("json_properties_column_name", "A column with properties in JSON."),
            text("insert_time_column_name", "The column with the time of the row's insertion."),
        ),
        _import(
            "create_people", "people", MODES, "Import user profiles.",
            "--sync-mode full_sync --user-column-name id",
            text("user_column_name", "The column with the user.", required=True),
        ),
        _import(
            "create_groups", "groups", MODES, "Import group profiles.",
            "--sync-mode full_sync --group-key company --group-id-column id",
            text("group_key", "The group key.", required=True),
            text("group_id_column", "The column with the group.", required=True),
        ),
        _import(
            "create_lookup_table", "lookup-table", ("full_sync", "one_time"),
            "Import a lookup table.",
            "--sync-mode one_time --property-key-column-name sku "
            "--mixpanel-property '{\"value\": \"sku\", \"resourceType\": \"event\"}'",
            document(
                "mixpanel_property", "The property whose values are looked up.", required=True,
            ),
            text("property_key_column_name", "The column with those values.", required=True),
        ),
        changing(
            f"{IMPORTS}/{{id}}", "Pause or continue an import, or change when it runs.",
            boolean("paused", "Whether it does not run.", required=True), EVERY,
            document("databricks_params", "Of Databricks, all of them."), example="1021 --paused",
        ),
        deleting(
            f"{IMPORTS}/{{id}}", "Delete an import.",
            boolean("delete_data", "Also delete what it has imported."), example="1021",
        ),
        Endpoint(
            name="sync", method="PUT", path=f"{IMPORTS}/{{id}}/manual-sync",
            summary="Run an import now.", model=project.ImportRun, example="1021",
        ),
        Endpoint(
            name="history", method="GET", path=f"{IMPORTS}/{{id}}/history",
            summary="List the latest 30 runs of an import.", returns="list",
            model=project.ImportRun, example="1021",
        ),
    ),
)  # fmt: skip

# ---- projects and data views --------------------------------------------------------------------

PROJECTS = Resource(
    name="projects",
    sample="4242",
    singular="project",
    model=project.ProjectInfo,
    summary="The projects that the credentials may use.",
    endpoints=(listing("me", "List the projects.", inside=("projects",)),),
)
VIEWS = Resource(
    name="views",
    sample="77", singular="data view", model=project.DataView,
    summary="The data views (workspaces) of the project.",
    endpoints=(
        listing(
            "{project}/workspaces/public", "List the data views.",
            fallback="projects/metadata/index", fallback_inside=("{project_id}", "workspaces"),
        ),
    ),
)  # fmt: skip
ORGANIZATIONS = Resource(
    name="organizations",
    sample="1",
    singular="organization",
    model=project.Organization,
    summary="The organizations of the credentials.",
    endpoints=(listing("me", "List the organizations.", inside=("organizations",)),),
)
CONTENT = text("content", "The text.", required=True, positional=True)
BUSINESS_CONTEXT = Resource(
    name="business_context", singular="business context", model=project.BusinessContext,
    summary="A text about the project, for those who analyze it.",
    endpoints=(
        getting("{project}/business-context", "Read the text about the project."),
        changing(
            "{project}/business-context", "Replace the text about the project.", CONTENT,
            method="PUT", danger=True, example="'A shop for tea'",
        ),
        Endpoint(
            name="of_organization", method="GET", fields=(ORGANIZATION,),
            path="organizations/{organization_id}/business-context",
            summary="Read the text about the organization.",
        ),
        Endpoint(
            name="update_organization", method="PUT", fields=(CONTENT, ORGANIZATION),
            path="organizations/{organization_id}/business-context", danger=True,
            summary="Replace the text about the organization.", example="'Sells tea'",
        ),
        Endpoint(
            name="both", method="GET", path="{project}/business-context/chain", returns="value",
            summary="Read the texts about the organization and the project.",
        ),
    ),
)  # fmt: skip

ADMINISTRATION = (
    SERVICE_ACCOUNTS, RETRIEVALS, PRIVACY_DELETIONS, WAREHOUSE_IMPORTS, PROJECTS, VIEWS,
    ORGANIZATIONS, BUSINESS_CONTEXT,
)  # fmt: skip
