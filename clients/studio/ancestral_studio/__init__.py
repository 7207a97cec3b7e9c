"""A page that shows what the models of a server do: `ancestral studio`."""
