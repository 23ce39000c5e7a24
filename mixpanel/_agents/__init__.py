"""What an agent can do with a project and its local database: `mp mcp`, `mp schema`, `mp docs`."""
