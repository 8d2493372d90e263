"""The page that is generated from the knowledge base."""
