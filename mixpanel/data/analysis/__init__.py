"""Mixpanel's reports as DuckDB SQL."""
