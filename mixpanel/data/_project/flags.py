"""The table's part on feature flags and experiments."""

from __future__ import annotations

from mixpanel.data import project
from mixpanel.data._project.table import (
    Endpoint,
    Resource,
    boolean,
    changing,
    choice,
    creating,
    deleting,
    document,
    getting,
    integer,
    items,
    listing,
    text,
    texts,
    timestamp,
)

__all__ = ["FLAGS"]

STATUSES = ("enabled", "disabled", "archived")
SERVING = ("client", "server", "remote_or_local", "remote_only")
FLAG = "{project}/workspaces/{view}/feature-flags/{id}/"
FLAG_FIELDS = (
    text("description", "A description."),
    choice("status", STATUSES, "enabled, disabled or archived."),
    text("experiment_id", "The experiment that it belongs to."),
    text("data_group_id", "The group key that it is evaluated for."),
    text("hash_salt", "The salt of its hashes: 32 characters."),
    boolean("reset_hash_salt", "Whether users are assigned to variants anew."),
)
FEATURE_FLAGS = Resource(
    name="feature_flags", singular="feature flag", model=project.FeatureFlag,
    summary="Feature flags.",
    endpoints=(
        listing(
            "{project}/workspaces/{view}/feature-flags/", "List the feature flags.",
            boolean("include_archived", "Also archived ones."),
        ),
        getting(FLAG, "Read a feature flag.", example="1009"),
        creating(
            "{project}/workspaces/{view}/feature-flags/", "Create a feature flag.",
            text("name", "Its name.", required=True), text("key", "Its key.", required=True),
            text("context", "The key that users are assigned by, as distinct_id.", required=True),
            choice("serving_method", SERVING, "Where it is evaluated.", required=True),
            document("ruleset", "Its variants and rollout.", required=True),
            texts("tags", "Its tags.", required=True), *FLAG_FIELDS,
            example="--name 'New cart' --key new-cart --context distinct_id "
            "--serving-method remote_or_local --tags shop --ruleset @ruleset.json",
        ),
        changing(
            FLAG, "Change a feature flag; what is not named stays.",
            text("name", "Its name."), text("key", "Its key."),
            text("context", "The key that users are assigned by."),
            choice("serving_method", SERVING, "Where it is evaluated."),
            document("ruleset", "Its variants and rollout."), texts("tags", "Its tags."),
            *FLAG_FIELDS, method="PUT", merge=True, danger=("reset_hash_salt",),
            example="1009 --status enabled",
        ),
        deleting(FLAG, "Delete a feature flag.", example="1009"),
        Endpoint(
            name="archive", method="POST", path=FLAG + "archive/",
            summary="Archive a feature flag.", returns="nothing", example="1009",
        ),
        Endpoint(
            name="restore", method="DELETE", path=FLAG + "archive/",
            summary="Restore an archived feature flag.", example="1009",
        ),
        Endpoint(
            name="duplicate", method="POST", path=FLAG + "duplicate/",
            summary="Copy a feature flag.", example="1009",
        ),
        Endpoint(
            name="set_test_users", method="PUT", path=FLAG + "test-users/",
            summary="Replace the users with a variant of their own.", returns="nothing",
            fields=(document("users", "distinct_id to variant.", required=True),),
            example="1009 --users '{\"qa-1\": \"on\"}'",
        ),
        Endpoint(
            name="history", method="GET", path=FLAG + "history/",
            summary="Return the changes of a feature flag.", returns="value",
            fields=(
                text("page", "The page.", place="query"),
                integer("page_size", "Changes a page.", place="query"),
            ),
            example="1009",
        ),
        Endpoint(
            name="limits", method="GET", path="{project}/feature-flags/limits/",
            summary="Show how many feature flags there are, and may be.", model=project.FlagLimits,
        ),
    ),
)  # fmt: skip

EXPERIMENT = "{scope}/experiments/{id}"
EXPERIMENT_FIELDS = (
    text("description", "A description, up to 400 characters."),
    text("hypothesis", "What it is to show."),
    document("settings", "Its settings."),
    items("variants", "Its variants."),
    items("metrics", "What it measures."),
    text("global_access_type", "Who may change it."),
)
EXPERIMENTS = Resource(
    name="experiments", singular="experiment", model=project.Experiment,
    summary="Experiments.",
    endpoints=(
        listing(
            "{scope}/experiments/", "List the experiments.",
            boolean("include_archived", "Also archived ones."),
        ),
        getting(EXPERIMENT, "Read an experiment.", example="1010"),
        creating(
            "{scope}/experiments/", "Create an experiment.",
            text("name", "Its name, up to 255 characters.", required=True), *EXPERIMENT_FIELDS,
            example="--name 'Green button' --hypothesis 'It is clicked more often'",
        ),
        changing(
            EXPERIMENT, "Change an experiment.", text("name", "Its name."), *EXPERIMENT_FIELDS,
            timestamp("start_date", "When it began."), timestamp("end_date", "When it ends."),
            texts("tags", "Its tags."), text("status", "Its status."),
            example="1010 --name 'Greener button'",
        ),
        deleting(EXPERIMENT, "Delete an experiment.", example="1010"),
        Endpoint(
            name="launch", method="PUT", path=EXPERIMENT + "/launch",
            summary="Start an experiment.", example="1010",
        ),
        Endpoint(
            name="conclude", method="PUT", path=EXPERIMENT + "/force_conclude",
            summary="End an experiment.", danger=True,
            fields=(timestamp("end_date", "When it ended; now by default."),), example="1010",
        ),
        Endpoint(
            name="decide", method="PATCH", path=EXPERIMENT + "/decide",
            summary="Record the outcome of an experiment.",
            fields=(
                boolean("success", "Whether it succeeded.", required=True),
                text("variant", "The variant to keep."), text("message", "A remark."),
            ),
            example="1010 --success --variant on",
        ),
        Endpoint(
            name="archive", method="POST", path=EXPERIMENT + "/archive",
            summary="Archive an experiment.", returns="nothing", example="1010",
        ),
        Endpoint(
            name="restore", method="DELETE", path=EXPERIMENT + "/archive",
            summary="Restore an archived experiment.", example="1010",
        ),
        Endpoint(
            name="duplicate", method="POST", path=EXPERIMENT + "/duplicate",
            summary="Copy an experiment.",
            fields=(text("name", "The name of the copy."),), example="1010 --name Copy",
        ),
        Endpoint(
            name="erf", method="GET", path="{scope}/experiments/erf/",
            summary="List the experiments in Mixpanel's own exchange format.", returns="value",
        ),
    ),
)  # fmt: skip

FLAGS = (FEATURE_FLAGS, EXPERIMENTS)
