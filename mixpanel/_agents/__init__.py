"""Tools for agents to read a project and its local database: `mp mcp`, `mp schema`, `mp docs`."""
