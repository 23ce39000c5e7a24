"""Live queries and discovery: requests, responses, and the methods that join them."""
