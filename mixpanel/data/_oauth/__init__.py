"""Log in as a person: OAuth 2 with PKCE, and keeping the access token fresh."""
