"""The methods of a workspace: those that call Mixpanel, and those on the local database."""
