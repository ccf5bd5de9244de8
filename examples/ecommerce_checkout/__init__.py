"""A shop's checkout: a chain of five steps, with typed inputs and classified errors."""
