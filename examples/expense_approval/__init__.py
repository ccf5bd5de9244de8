"""A manager approves an expense: a task waits for a person, as long as it takes or until its time is up."""
