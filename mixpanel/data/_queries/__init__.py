"""Live queries and discovery: requests, answers, and the methods that join them."""
